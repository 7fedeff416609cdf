"""What init sees of a workspace that does not hold still."""

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.guest import walk
from sandbox.guest.beneath import beneath
from sandbox.guest.sight import Sight
from sandbox.guest.workspace import Workspace


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on a file system of the workspace's kind, which tells changes apart however close they are."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.parametrize("forged", [False, True])
def test_a_file_that_is_always_there_is_seen_or_the_look_is_not_complete(memory: Path, forged: bool) -> None:
    for directory in range(3):
        (memory / str(directory)).mkdir()
        for number in range(200):
            (memory / str(directory) / f"{number}").touch()
    (memory / "0" / "moved").touch()
    workspace, ended = Workspace(str(memory)), threading.Event()

    def move() -> None:
        while not ended.is_set():
            for here, there in ((0, 2), (2, 0)):
                os.rename(memory / str(here) / "moved", memory / str(there) / "moved")
                for directory in (here, there) if forged else ():
                    os.utime(memory / str(directory), ns=(1, 1))

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(30):
            seen = workspace.walk()
            assert {"0/moved", "2/moved"} & seen.files.keys() or not seen.sight.complete
    finally:
        ended.set()
        mover.join()
    assert workspace.walk().sight.whole


def test_a_file_that_is_never_where_one_looks_is_not_told_to_be_gone(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in "ab":
        (memory / directory).mkdir()
    (memory / "a" / "moved").touch()

    def move_and_open(root: int, path: str, flags: int) -> int:
        other = {"a": "b", "b": "a"}.get(path)
        if other is not None and not flags & os.O_PATH and (memory / path / "moved").exists():
            (memory / path / "moved").rename(memory / other / "moved")
        return beneath(root, path, flags)

    monkeypatch.setattr(walk, "beneath", move_and_open)
    seen = Workspace(str(memory)).walk()
    assert not seen.files
    assert not seen.sight.complete


def test_one_directory_that_is_written_to_all_the_time_can_be_told_of(memory: Path) -> None:
    (memory / "logs").mkdir()
    (memory / "data").mkdir()
    workspace, ended = Workspace(str(memory)), threading.Event()

    def write() -> None:
        while not ended.is_set():
            (memory / "logs" / "a").touch()
            (memory / "logs" / "a").unlink()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(workspace.walk().sight.whole for _ in range(30))
    finally:
        ended.set()
        writer.join()


def test_what_was_not_seen_may_be_there() -> None:
    assert Sight().tells_of("a/b")
    assert not Sight(complete=False).tells_of("a/b")
    shut = Sight(shut=("a",))
    assert [shut.tells_of(path) for path in ("a/b", "a/b/c", "ab", "b/a")] == [False, False, True, True]
    assert not Sight(shut=("",)).tells_of("a")
    assert not shut.whole


def test_no_program_can_make_a_changed_file_look_like_the_old_one() -> None:
    before = walk.Walk({"a": walk.Seen(1, 2, -1, 3)}, Sight(), 0)
    after = walk.Walk({"a": walk.Seen(1, 2, -2, 3)}, Sight(), 0)
    assert hash(before.files["a"]) == hash(after.files["a"]), "numbers are hashed alike, by whoever wants them to be"
    assert before.mark() != after.mark()
    assert before.mark() == walk.Walk(dict(before.files), Sight(), 0).mark()
