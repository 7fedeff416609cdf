"""A systemd of our own, for one service: in namespaces, over a file system that it cannot write to."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

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
mount -t sysfs -o ro sysfs /mnt/sys
mount -t cgroup2 cgroup2 /mnt/sys/fs/cgroup
mount -t tmpfs tmpfs /mnt/dev
for each in null zero full random urandom; do touch /mnt/dev/$each; mount --bind /dev/$each /mnt/dev/$each; done
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
    with _group(f"systemd-{os.getpid()}") as group, (directory / "log").open("wb") as log:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'  # which it takes for the root of all groups
        process = subprocess.Popen(["sh", "-c", enter, "sh", *boot], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _group(name: str) -> Iterator[Path]:
    """A control group of version 2, gone at the end with all that was made below it."""
    places = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    place = next((place for place in places if (place / "cgroup.controllers").exists()), None)
    if place is None:
        pytest.skip("this host has no control groups of version 2")
    group = place / name
    group.mkdir()
    try:
        yield group
    finally:
        for below, _, _ in os.walk(group, topdown=False):
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
