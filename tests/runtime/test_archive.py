"""A container's file system is made here from bytes that somebody else wrote."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.runtime.docker import archive


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, mode=mode)


def extract(into: Path, *members: tarfile.TarInfo, content: bytes = b"") -> None:
    """Extract a tar of these; regular files hold `content`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as stream:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            stream.addfile(member, io.BytesIO(content))
    archive.extract(pieces(file.getvalue(), 1000), into)


def pieces(whole: bytes, size: int) -> Iterator[bytes]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def test_files_directories_and_both_kinds_of_link_are_made(tmp_path: Path) -> None:
    extract(
        tmp_path,
        directory("usr"),
        directory("usr/bin"),
        entry("usr/bin/tool", mode=0o755),
        entry("usr/bin/same", tarfile.LNKTYPE, link="usr/bin/tool"),
        entry("bin", tarfile.SYMTYPE, link="usr/bin"),
        content=b"x" * 5000,
    )
    assert (tmp_path / "bin/tool").read_bytes() == b"x" * 5000
    assert (tmp_path / "usr/bin/same").samefile(tmp_path / "usr/bin/tool")
    assert os.access(tmp_path / "usr/bin/tool", os.X_OK)
    assert os.readlink(tmp_path / "bin") == "usr/bin"


def test_a_link_keeps_a_target_that_means_something_inside_only(tmp_path: Path) -> None:
    extract(tmp_path, entry("awk", tarfile.SYMTYPE, link="/etc/alternatives/awk"))
    assert os.readlink(tmp_path / "awk") == "/etc/alternatives/awk"


@pytest.mark.attack("J02")
def test_bits_that_give_rights_are_dropped(tmp_path: Path) -> None:
    extract(tmp_path, directory("etc", mode=0o2777), entry("etc/su", mode=0o6777))
    assert (tmp_path / "etc").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "etc/su").stat().st_mode & 0o7777 == 0o755


def test_a_directory_that_may_not_be_written_to_is_filled(tmp_path: Path) -> None:
    extract(tmp_path, directory("usr", mode=0o555), entry("usr/file"))
    assert (tmp_path / "usr/file").is_file()


def test_what_every_sandbox_has_of_its_own_is_left_out(tmp_path: Path) -> None:
    extract(tmp_path, directory("dev"), entry("dev/null", tarfile.CHRTYPE), directory("proc"), directory("etc"))
    assert [path.name for path in tmp_path.iterdir()] == ["etc"]


OUTSIDE = "leads out of the image"


@pytest.mark.attack("J02")
@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([entry("../escaped")], OUTSIDE),
        ([entry("/escaped")], OUTSIDE),
        ([directory("a"), entry("a/../../escaped")], OUTSIDE),
        ([entry("a", tarfile.SYMTYPE, link=".."), entry("a/escaped")], OUTSIDE),
        ([entry("a", tarfile.SYMTYPE, link="/"), entry("a/escaped")], OUTSIDE),
        ([entry("missing/file")], OUTSIDE),
        ([entry("a", tarfile.LNKTYPE, link="../secret")], "not in the image"),
        ([entry("s", tarfile.SYMTYPE, link="../secret"), entry("a", tarfile.LNKTYPE, link="s")], "not in the image"),
        ([entry("disk", tarfile.BLKTYPE)], "neither a file"),
        ([entry("tty", tarfile.CHRTYPE)], "neither a file"),
        ([entry("pipe", tarfile.FIFOTYPE)], "neither a file"),
    ],
)
def test_what_would_reach_the_host_is_refused(members: list[tarfile.TarInfo], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "image").mkdir()
    with pytest.raises(tarfile.TarError, match=complaint):
        extract(tmp_path / "image", *members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "secret"]


@pytest.mark.parametrize("second", [entry("a"), entry("a", tarfile.SYMTYPE, link="/"), directory("a")])
def test_nothing_takes_the_place_of_what_is_there(second: tarfile.TarInfo, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "image").mkdir()
    with pytest.raises(FileExistsError):
        extract(tmp_path / "image", entry("a", tarfile.SYMTYPE, link="../secret"), second, content=b"changed")
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_stream_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as stream:
        member = entry("usr")
        member.size = 5000
        stream.addfile(member, io.BytesIO(b"x" * 5000))
    with pytest.raises(tarfile.TarError):
        archive.extract(iter([file.getvalue()[:2000]]), tmp_path)
