import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import image
from sandbox.config import Settings
from sandbox.errors import ImageNotBuilt, UnknownImage
from sandbox.image import Image, Manifest


@pytest.fixture(scope="session")
def python_image() -> Image:
    return image.build("python", Settings().images_dir, print)


@pytest.fixture
def copy(python_image: Image, tmp_path: Path) -> Image:
    """A root of our own to damage: the libraries are the built ones, by link."""
    root = tmp_path / "python" / python_image.root.name
    root.mkdir(parents=True)
    (root / "venv").symlink_to(python_image.root / "venv")
    for name in ("manifest.json", "preload.py"):
        shutil.copy(python_image.root / name, root)
    return image.load("python", tmp_path)


def run(built: Image, code: str, tmp_path: Path) -> str:
    """What `code` prints after all of the image's preload, every warning an error."""
    # As the zygote does, after the kernel's own imports.
    preload = f"""
import importlib, ipykernel.zmqshell, runpy
preload = runpy.run_path({str(built.root / "preload.py")!r})
for module in (*preload["COMMON"], *preload["LATER"]): importlib.import_module(module)
"""
    warn = "import warnings; warnings.simplefilter('error')\n"
    finished = subprocess.run(
        [built.root / "venv/bin/python", "-I", "-B", "-c", preload + warn + code],
        env={"PATH": os.defpath, "HOME": str(tmp_path), "MPLCONFIGDIR": str(built.root / "venv/share/matplotlib")},
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


def test_every_library_that_the_lock_names_for_this_host_is_in_the_manifest(python_image: Image) -> None:
    libraries = {name.lower().replace("-", "_").replace(".", "_") for name in python_image.manifest.libraries}
    for needed in ("numpy", "pandas", "pypdf2", "scikit_learn", "python_docx", "pyarrow", "ipykernel", "statsmodels"):
        assert needed in libraries


def test_the_manifest_survives_json(python_image: Image) -> None:
    manifest = python_image.manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_manifest_names_the_interpreter_and_not_the_environment_that_runs_us(python_image: Image) -> None:
    assert python_image.manifest.base_prefix == sys.base_prefix
    interpreter = (python_image.root / "venv/bin/python").resolve()
    assert interpreter.is_relative_to(Path(sys.base_prefix).resolve())


def test_a_built_image_is_returned_at_once(python_image: Image) -> None:
    steps: list[str] = []
    again = image.build("python", Settings().images_dir, steps.append)
    assert again == python_image
    assert steps == []


def test_a_built_image_is_listed(python_image: Image) -> None:
    assert python_image in image.built(Settings().images_dir)


@pytest.mark.parametrize("name", ["nothing", "", "..", "../python", "python/", "/etc"])
def test_an_unknown_name_is_refused_and_the_known_ones_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownImage, match="python"):
        image.load(name, tmp_path)
    with pytest.raises(UnknownImage, match="python"):
        image.build(name, tmp_path, print)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(ImageNotBuilt, match="sandbox image build python"):
        image.load("python", tmp_path)


@pytest.mark.parametrize("lost", ["manifest.json", "preload.py", "venv"])
def test_a_damaged_root_is_not_used(copy: Image, lost: str, tmp_path: Path) -> None:
    (copy.root / lost).unlink()
    with pytest.raises(ImageNotBuilt, match="damaged"):
        image.load("python", tmp_path)
    assert image.built(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "python"}', "\x00"])
def test_a_manifest_that_is_none_makes_a_damaged_root(copy: Image, text: str, tmp_path: Path) -> None:
    (copy.root / "manifest.json").write_text(text)
    with pytest.raises(ImageNotBuilt, match="damaged"):
        image.load("python", tmp_path)


def test_a_half_built_root_is_not_listed(copy: Image, tmp_path: Path) -> None:
    copy.root.rename(copy.root.with_name(f"{copy.root.name}.tmp-1"))
    assert image.built(tmp_path) == []


def test_a_build_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("in the way")
    with pytest.raises(ImageNotBuilt, match="python"):
        image.build("python", tmp_path, print)
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_everybody_can_read_the_root(python_image: Image) -> None:
    for directory, _, files in os.walk(python_image.root):
        assert os.stat(directory).st_mode & 0o055 == 0o055, directory
        for file in files:
            assert os.stat(Path(directory, file)).st_mode & 0o044 == 0o044, file


def test_preload_leaves_one_thread_and_nothing_random_behind(python_image: Image, tmp_path: Path) -> None:
    code = """
import os, random, sys, numpy
generators = (random.Random, numpy.random.Generator, numpy.random.RandomState)
found = {f"{name}.{key}" for name, module in list(sys.modules.items())
         for key, value in list(getattr(module, "__dict__", {}).items()) if isinstance(value, generators)}
print(len(os.listdir("/proc/self/task")), *sorted(found))
"""
    # These three are reseeded after the fork, or read the system's randomness.
    assert run(python_image, code, tmp_path).split() == [
        "1",
        "numpy.random.mtrand._rand",
        "random._inst",
        "secrets._sysrand",
    ]


def test_the_first_table_plot_and_png_import_nothing_more(python_image: Image, tmp_path: Path) -> None:
    code = """
import io, sys
import matplotlib; matplotlib.use("agg")
import pandas, matplotlib.pyplot as plt
frame = pandas.DataFrame({"day": pandas.date_range("2024-01-01", periods=9), "value": range(9)})
before = set(sys.modules)
repr(frame), frame._repr_html_(), frame.describe(), frame.groupby("value").sum(numeric_only=True)
frame.plot(x="day", y="value"); plt.savefig(io.BytesIO(), format="png")
print(*sorted(set(sys.modules) - before - {"pyarrow.vendored.version"}))
"""
    assert run(python_image, code, tmp_path).split() == []


@pytest.mark.parametrize("style", ["", "import seaborn; seaborn.set_theme()", "plt.style.use('ggplot')"])
def test_chinese_japanese_and_korean_draw_as_glyphs(python_image: Image, style: str, tmp_path: Path) -> None:
    if not python_image.manifest.fonts:
        pytest.skip("; ".join(python_image.manifest.notes))
    code = f"""
import io, matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
{style}
plt.title("月度销售额 売上高ありがとう 월간 매출")
plt.savefig(io.BytesIO(), format="png")
"""
    run(python_image, code, tmp_path)


def extract(system: Path) -> None:
    """A file system as small as an image can be."""
    for directory in ("usr/bin", "etc", "opt/image", "opt/venv/bin"):
        (system / directory).mkdir(parents=True)
    for file, mode in (("usr/bin/python3.11", 0o755), ("opt/image/preload.py", 0o644)):
        (system / file).touch(mode)
    (system / "opt/venv/bin/python").symlink_to("/usr/bin/python3.11")


@pytest.fixture
def manifest(python_image: Image) -> Manifest:
    """Of an image on another system."""
    return dataclasses.replace(python_image.manifest, name="other", python="3.11.99", base_prefix="/usr")


def test_an_unpacked_root_has_a_system_of_its_own_and_a_built_one_the_hosts(
    manifest: Manifest, python_image: Image, tmp_path: Path
) -> None:
    unpacked = image.unpack(manifest, "0123456789abcdef", tmp_path, extract, print)
    assert (unpacked.name, unpacked.root.name) == ("other", "0123456789ab-py3.11.99")
    assert unpacked.system == unpacked.root / "system"
    assert python_image.system == Path("/")
    assert image.load("other", tmp_path) == unpacked
    assert (image.sources(), image.names(tmp_path)) == (["python"], ["other", "python"])
    assert image.built(tmp_path) == [unpacked]


def test_a_name_means_what_was_unpacked_last(manifest: Manifest, tmp_path: Path) -> None:
    first = image.unpack(manifest, "1" * 64, tmp_path, extract, print)
    second = image.unpack(manifest, "2" * 64, tmp_path, extract, print)
    assert image.load("other", tmp_path) == second
    assert image.unpack(manifest, "1" * 64, tmp_path, extract, print) == first
    assert image.load("other", tmp_path) == first


def test_an_unpacked_root_without_its_python_is_damaged_whatever_the_host_has(
    manifest: Manifest, tmp_path: Path
) -> None:
    unpacked = image.unpack(manifest, "1" * 64, tmp_path, extract, print)
    (unpacked.system / "usr/bin/python3.11").unlink()
    with pytest.raises(ImageNotBuilt, match="sandbox image unpack"):
        image.load("other", tmp_path)
    assert image.unpack(manifest, "1" * 64, tmp_path, extract, print) == unpacked


@pytest.mark.parametrize("part", ["usr", "etc", "opt"])
def test_a_system_that_leads_to_the_host_is_refused(part: str, manifest: Manifest, tmp_path: Path) -> None:
    def extract_with_a_link(system: Path) -> None:
        extract(system)
        (system / part).rename(system / "real")
        (system / part).symlink_to(f"/{part}")

    with pytest.raises(ImageNotBuilt, match="leads out"):
        image.unpack(manifest, "1" * 64, tmp_path, extract_with_a_link, print)
    assert image.names(tmp_path) == ["python"]


def test_what_was_unpacked_is_forgotten_with_its_directory(manifest: Manifest, tmp_path: Path) -> None:
    shutil.rmtree(image.unpack(manifest, "1" * 64, tmp_path, extract, print).root.parent)
    with pytest.raises(UnknownImage, match="python"):
        image.load("other", tmp_path)
