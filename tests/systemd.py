"""A systemd of our own, for one service: in namespaces, over a file system that it cannot write to."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.docker import ROOT
from tests.host import WAIT_SECONDS
from tests.needs import missing

_SYSTEMD = "/lib/systemd/systemd"
_NAMESPACES = ("--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup")
_BOOT = """
set -eu
directory=$1 root=$2 systemd=$3
mount --make-rprivate /
mount --bind / /mnt
mount -o remount,ro,bind /mnt
for each in tmp run var/tmp var/log var/lib/systemd; do mount -t tmpfs tmpfs /mnt/$each; done
for each in "$root" "$directory"; do
    [ -d "/mnt$each" ] || mkdir -p "/mnt$each"
    mount --bind "$each" "/mnt$each"
done
mount -t proc proc /mnt/proc
mount --bind /mnt/proc/sys /mnt/proc/sys
mount -o remount,ro,bind /mnt/proc/sys
mount --rbind /dev /mnt/dev
mount --rbind /sys /mnt/sys
mkdir -p /mnt/run/lock /mnt/run/systemd/system
cp "$directory"/one.service "$directory"/one.target /mnt/run/systemd/system/
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec env -i PATH=$PATH container=other chroot /mnt $systemd --system --unit=one.target --log-target=console
"""


@contextlib.contextmanager
def booted(directory: Path, service: Sequence[str]) -> Iterator[None]:
    """While the block lasts it runs a service with these lines; it, and the service, can write in `directory` only."""
    if not Path(_SYSTEMD).exists() or shutil.which("unshare") is None:
        missing("needs systemd: apt-get install systemd util-linux")
    (directory / "one.target").write_text("[Unit]\nDefaultDependencies=no\nRequires=one.service\n")
    lines = ["[Unit]", "DefaultDependencies=no", "[Service]", *service]
    (directory / "one.service").write_text("\n".join(lines) + "\n")
    (directory / "boot").write_text(_BOOT)
    boot = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "sh"]
    boot += [f"{directory}/boot", str(directory), str(ROOT), _SYSTEMD]
    with _groups(f"systemd-{os.getpid()}") as groups, (directory / "log").open("wb") as log:
        # It takes those for the root of all groups. A hierarchy that it cannot enter (cpuset) it does without.
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
        process = subprocess.Popen(
            ["sh", "-c", f'{enter} exec "$@"', "sh", *boot], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _groups(name: str) -> Iterator[list[Path]]:
    """Control groups of that name, one in each hierarchy, gone at the end with all that was made below them."""
    place = Path("/sys/fs/cgroup")
    versions = [each for each in place.iterdir() if (each / "cgroup.procs").exists() and not each.is_symlink()]
    hierarchies = [place] if (place / "cgroup.procs").exists() else versions
    groups = [hierarchy / name for hierarchy in hierarchies]
    for group in groups:
        group.mkdir()
    try:
        yield groups
    finally:
        for below in (below for group in groups for below, _, _ in os.walk(group, topdown=False)):
            _remove(below)


def _remove(group: str) -> None:
    """As soon as all that was in it has ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            os.rmdir(group)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
