"""What a good colleague would add: the broken programs, each in a real sandbox."""

import re

import pytest

from sandbox import image
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.execution import Error, Execution, Status
from sandbox.image import Image
from sandbox.loop.hints import error_class, hints
from sandbox.loop.hints.libraries import nearest
from sandbox.loop.hints.removals import removals
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Text
from sandbox.loop.told import told
from sandbox.remote import File
from tests.repair import Program, facts_of, prepare, programs
from tests.repair.tokens import tokens

FACTS = Facts(
    "3.11.7", {"pandas": "3.1.1", "numpy": "2.4.6", "scikit-learn": "1.9.1", "matplotlib": "3.11.2"}, 512, 256, 30
)


def failure(name: str, value: str, looked_in: str = "", available: tuple[str, ...] = (), **rest: object) -> Execution:
    error = Error(name, value, f"{name}: {value}", looked_in, available)
    return Execution("exe_1", "ses_1", Status.ERROR, error=error, execution_count=2)


def hint(execution: Execution, code: str = "", files: tuple[File, ...] = (), *, lost: bool = False) -> str:
    return " ".join(hints(execution, code, FACTS, files, lost=lost))


@pytest.fixture(scope="module")
def python(python_image: Image) -> Image:
    return image.load("python", Settings.load().images_dir)


@pytest.mark.parametrize("broken", programs(), ids=lambda program: program.name)
async def test_a_broken_program_is_told_what_is_wrong_with_it(engine: Engine, python: Image, broken: Program) -> None:
    async with engine.session() as session:
        await prepare(session, broken)
        execution = await session.execute(broken.code, broken.timeout)
        files = await session.list()
    facts = facts_of(python.manifest, broken.timeout)
    [part] = told(execution, facts, files, code=broken.code, pictures=False)
    assert isinstance(part, Text)
    assert error_class(execution) == broken.error
    assert re.search(broken.told, part.text)
    assert part.text.startswith(execution.status.value)
    # Its own frames and nobody else's, nothing in colour, and never long.
    for foreign in ("site-packages", "/lib/python", "Library frames", "\x1b", "Traceback"):
        assert foreign not in part.text
    assert tokens(part.text) < 220
    assert len(hints(execution, broken.code, facts, files)) <= 3
    assert not broken.repaired(execution)


def test_there_are_programs_of_every_class() -> None:
    assert len(programs()) >= 40
    assert len({program.name for program in programs()}) == len(programs())
    assert len({program.error for program in programs()}) >= 20


class TestNames:
    def test_columns_are_listed_and_the_nearest_is_named(self) -> None:
        missing = failure("KeyError", "'prize'", "columns of df: DataFrame", ("'Price'", "'Region'"))
        assert hint(missing) == "The columns of df are 'Price', 'Region'. The nearest is 'Price'."

    def test_a_long_list_is_cut(self) -> None:
        names = tuple(f"'column {n:02} {'x' * 40}'" for n in range(30))
        told = hint(failure("KeyError", "'q'", "columns of df: DataFrame", names))
        assert len(told) < 600
        assert ", …" in told

    def test_a_number_is_not_a_text(self) -> None:
        missing = failure("KeyError", "'2020'", "columns of df: DataFrame", ("2020", "'a'"))
        assert hint(missing) == "2020 is a number there, not text: write it without quotes."
        missing = failure("KeyError", "2020", "columns of df: DataFrame", ("'2020'", "'a'"))
        assert hint(missing) == "'2020' is text there, not a number: write it with quotes."

    def test_after_the_kernel_was_replaced_missing_names_are_explained(self) -> None:
        missing = failure("NameError", "name 'df' is not defined", "names in scope")
        assert "all variables and imports are lost" in hint(missing, lost=True)
        assert "lost" not in hint(missing)

    @pytest.mark.parametrize(
        ("name", "how"),
        [("plt", "import matplotlib.pyplot as plt"), ("json", "import json"), ("pandas", "import pandas")],
    )
    def test_a_module_that_was_not_imported_is_named(self, name: str, how: str) -> None:
        assert how in hint(failure("NameError", f"name '{name}' is not defined", "names in scope"))

    def test_the_first_code_in_a_kernel_is_said_to_be_the_first(self) -> None:
        error = Error("NameError", "name 'table' is not defined", "", "names in scope")
        execution = Execution("exe_1", "ses_1", Status.ERROR, error=error, execution_count=1)
        assert "first code in this kernel" in hint(execution)

    def test_what_is_not_shown_of_the_system_is_no_file_that_is_missing(self) -> None:
        missing = failure("FileNotFoundError", "[Errno 2] No such file or directory: '/proc/meminfo'")
        assert "does not show /proc" in hint(missing, files=(File("sales.csv", 10, 0.0),))

    def test_who_wants_a_picture_of_plotly_is_told_what_there_is(self) -> None:
        said = "Image export requires the Kaleido package, which can be installed using pip"
        assert "fig.write_html(path)" in hint(failure("RuntimeError", said))

    def test_a_file_that_hides_a_library_is_named(self) -> None:
        said = "partially initialized module 'random' has no attribute 'randint' (most likely due to a circular import)"
        files = (File("random.py", 10, 0.0),)
        assert hint(failure("AttributeError", said), files=files) == (
            "/mnt/data/random.py hides the library of that name: rename it."
        )


class TestLibraries:
    @pytest.mark.parametrize(
        ("module", "words"),
        [
            ("polars", "Use pandas instead"),
            ("tensorflow.keras", "Use sklearn"),
            ("cv2", "cannot be: do without it"),  # pillow is not among these libraries
            ("httpx", "there is no network"),
            ("numppy", "there is numpy"),
            ("scikit_learn", "there is sklearn"),
            ("fancylib", "fancylib is not installed and cannot be"),
            ("cPickle", "Use pickle"),
            ("helpers", "src/helpers.py"),
        ],
    )
    def test_a_missing_module_is_told_what_does_its_job(self, module: str, words: str) -> None:
        files = (File("src/helpers.py", 10, 0.0),)
        assert words in hint(failure("ModuleNotFoundError", f"No module named '{module}'"), files=files)

    def test_the_nearest_library_goes_by_its_import_name(self) -> None:
        assert nearest("sklern", {"scikit-learn": "1"}) == "sklearn"
        assert nearest("beautifulsoup4", {"beautifulsoup4": "4"}) == "bs4"
        assert nearest("zzz", {"scikit-learn": "1"}) is None

    def test_what_was_removed_depends_on_the_version(self) -> None:
        said = "AttributeError: 'DataFrame' object has no attribute 'append'"
        assert list(removals(said, {"pandas": "1.5.3"})) == []
        assert list(removals(said, {})) == []
        assert list(removals(said, {"pandas": "2.0.0"})) == [
            "pandas 2.0.0 has no DataFrame.append; use pd.concat([first, second])."
        ]

    def test_a_missing_optional_dependency_is_told_what_does_without(self) -> None:
        missing = failure("ImportError", "Missing optional dependency 'fastparquet'. Use pip or conda to install it.")
        assert hint(missing) == "fastparquet is not installed and cannot be. Use engine='pyarrow'."


class TestFiles:
    FILES = (File("data/Sales 2024.csv", 1234, 0.0), File("notes.txt", 5, 0.0))

    @pytest.mark.parametrize("path", ["sales_2024.csv", "/mnt/data/Sales 2024.csv", "/home/me/sales 2024.CSV"])
    def test_a_missing_file_names_what_there_is_and_the_nearest(self, path: str) -> None:
        told = hint(failure("FileNotFoundError", f"[Errno 2] No such file or directory: '{path}'"), files=self.FILES)
        assert told == (
            "/mnt/data holds data/Sales 2024.csv (1.23 kB), notes.txt (5 bytes). The nearest is 'data/Sales 2024.csv'."
        )

    def test_an_empty_workspace_is_said_to_be_empty(self) -> None:
        told = hint(failure("FileNotFoundError", "[Errno 2] No such file or directory: 'a.csv'"))
        assert told == "/mnt/data is empty: no file was given."

    def test_a_missing_program_is_no_file(self) -> None:
        missing = failure("FileNotFoundError", "[Errno 2] No such file or directory: 'ffmpeg'")
        assert hint(missing, "import subprocess\nsubprocess.run(['ffmpeg'])") == (
            "The program ffmpeg is not installed and cannot be."
        )

    def test_a_missing_directory_to_write_to_is_made(self) -> None:
        missing = failure("FileNotFoundError", "[Errno 2] No such file or directory: 'out/x.txt'")
        assert "os.makedirs('out', exist_ok=True)" in hint(missing, "open('out/x.txt', 'w').write('a')")

    def test_a_full_disk_names_its_size(self) -> None:
        assert "256 MB at most" in hint(failure("OSError", "[Errno 28] No space left on device"))


class TestEndings:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("pd.read_csv('a.csv')", "usecols="),
            ("pd.read_parquet('a')", "columns="),
            ("a.merge(b)", "multiplies rows"),
            ("[n for n in range(9)]", "a generator"),
            ("x = a @ b", "smaller types"),
        ],
    )
    def test_want_of_memory_is_told_how_to_want_less(self, code: str, words: str) -> None:
        assert words in hint(Execution("exe_1", "ses_1", Status.OOM), code)

    def test_a_success_needs_no_hint(self) -> None:
        assert hint(Execution("exe_1", "ses_1", Status.OK), "print(1)") == ""

    def test_an_installer_that_only_printed_its_failure_is_explained(self) -> None:
        assert "Nothing can be installed" in hint(Execution("exe_1", "ses_1", Status.OK), "!pip install requests")

    def test_a_figure_that_was_saved_after_it_was_closed_is_told_to_be_empty(self) -> None:
        results = ({"image/png": "…"}, {"text/plain": "<Figure size 640x480 with 0 Axes>"})
        late = Execution("exe_1", "ses_1", Status.OK, results=results)
        assert "call savefig() before show()" in hint(late, "plt.show()\nplt.savefig('a.png')")
        assert hint(late, "plt.figure()") == ""
        assert hint(late, "plt.savefig('a.png')\nplt.show()\nplt.clf()") == ""
        assert hint(Execution("exe_1", "ses_1", Status.OK, results=results[:1]), "plt.savefig('a.png')") == ""


@pytest.mark.parametrize(
    ("execution", "label"),
    [
        (Execution("exe_1", "ses_1", Status.OK), "ok"),
        (Execution("exe_1", "ses_1", Status.OOM), "oom"),
        (failure("KeyError", "'a'"), "KeyError"),
        (failure("URLError", "x"), "network"),
        (failure("OSError", "[Errno 101] Network is unreachable"), "network"),
        (failure("MyOwn" + "x" * 100, "a"), "other"),
    ],
)
def test_the_label_of_an_error_is_of_a_bounded_set(execution: Execution, label: str) -> None:
    assert error_class(execution) == label
