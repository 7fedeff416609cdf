"""What is imported from one file is as if it had been found in the usual way."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from sandbox.guest import pack


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ModuleType]]:
    """A package with a part and a resource, imported; its part's source says something else since it was packed."""
    directory = tmp_path / "packed"
    directory.mkdir()
    (directory / "__init__.py").write_text("from packed.part import SAID\n")
    (directory / "part.py").write_text("SAID = 'as it was packed'\n")
    (directory / "resource").write_text("a resource")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = [importlib.import_module(name) for name in ("packed", "packed.part", "_statistics")]
    pack.write(str(tmp_path / "modules"), [*modules, sys])
    _forget()
    (directory / "part.py").write_text("SAID = 'as it is now, longer than before'\n")
    yield modules
    _forget()


def _forget() -> None:
    for name in ("packed", "packed.part", "_statistics"):
        sys.modules.pop(name, None)


def test_modules_that_are_packed_come_from_there(package: list[ModuleType], tmp_path: Path) -> None:
    finders = list(sys.meta_path)
    with pack.importing(str(tmp_path / "modules")) as descriptors:
        assert len(descriptors) == 1
        packed = importlib.import_module("packed")
    assert sys.meta_path == finders
    assert packed.SAID == "as it was packed"
    assert (packed.__file__, packed.__path__) == (package[0].__file__, package[0].__path__)
    assert sys.modules["packed.part"].__cached__ == package[1].__cached__
    assert resources.files(packed).joinpath("resource").read_text() == "a resource"
    assert inspect.getsource(sys.modules["packed.part"]) == "SAID = 'as it is now, longer than before'\n"


def test_who_imports_one_again_gets_what_its_file_says(package: list[ModuleType], tmp_path: Path) -> None:
    with pack.importing(str(tmp_path / "modules")):
        part = importlib.import_module("packed.part")
    assert importlib.reload(part).SAID == "as it is now, longer than before"


def test_what_is_no_python_is_loaded_from_its_own_file(package: list[ModuleType], tmp_path: Path) -> None:
    with pack.importing(str(tmp_path / "modules")):
        extension = importlib.import_module("_statistics")
    assert extension.__file__ == package[2].__file__
    assert isinstance(extension.__loader__, ExtensionFileLoader)
    assert extension is not package[2]


def test_without_such_a_file_modules_come_from_where_they_usually_do(package: list[ModuleType], tmp_path: Path) -> None:
    with pack.importing(str(tmp_path / "none")) as descriptors:
        assert descriptors == set()
        assert importlib.import_module("packed").SAID == "as it is now, longer than before"
