"""Environments in which recipes run: what a recipe says that it needs, really installed, and nothing else."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import uv

from tests.needs import missing

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "recipes"
CONSTRAINTS = Path(__file__).parent / "constraints.txt"
_INSTALL_SECONDS = 300
_RUN_SECONDS = 120
_OURS = "sandbox-engine"
_CHECKOUT = "path/to/the/checkout"


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment for one recipe."""

    recipe: Path
    python: Path

    def run(self, question: str, env: Mapping[str, str]) -> str:
        """What the recipe prints when it is asked. It has to end well."""
        # Nothing of the environment that runs the tests may lead it to something that it has not installed.
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_", "SANDBOX_"))
        }
        done = subprocess.run(
            [self.python, self.recipe, question],
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            env={**kept, **env},
            cwd=self.python.parent,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout).strip()


def install_line(recipe: Path) -> str:
    """The command in a recipe's docstring."""
    [line] = re.findall(r"^pip install .*$", recipe.read_text(), re.MULTILINE)
    return str(line)


def make(recipe: Path, directory: Path) -> Environment:
    """Install what the recipe says, ours from this checkout. A visible skip where that cannot be had."""
    python = directory / "bin" / "python"
    wanted = shlex.split(install_line(recipe).removeprefix("pip install "))
    ours = ["--editable", str(ROOT)] if _CHECKOUT in wanted else []
    theirs = [name for name in wanted if name != _CHECKOUT]
    # From wheels only, so that a library cannot turn a test into a build of hours.
    flags = ["--quiet", "--only-binary", ":all:", "--no-binary", _OURS, "--constraint", str(CONSTRAINTS)]
    try:
        _uv("venv", "--quiet", "--no-project", "--python", sys.executable, str(directory))
        _uv("pip", "install", *flags, "--python", str(python), *ours, *theirs)
    except subprocess.TimeoutExpired:
        missing(f"could not install {' '.join(theirs)} in {_INSTALL_SECONDS} s")
    except subprocess.CalledProcessError as error:
        missing(f"could not install {' '.join(theirs)}: {error.stderr.strip()[-500:]}")
    return Environment(recipe, python)


def _uv(*arguments: str) -> None:
    """An installer that our package needs anyway, and several times as fast as pip."""
    subprocess.run([uv.find_uv_bin(), *arguments], capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=True)
