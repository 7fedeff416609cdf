"""The launcher's look at a kernel, at processes that want for one wall each."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.runtime.embedded import jail
from sandbox.runtime.embedded.cgroup import Group, Layout
from tests.host import children

KINDS = {"mnt": "mount", "net": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "pid": "pid", "user": "user"}
"""Namespaces as the launcher names them, and as `unshare` does."""


@contextmanager
def sharing(shared: str) -> Iterator[int]:
    """A process that has this namespace in common with us, and no other."""
    wanted = [f"--{option}" for name, option in KINDS.items() if name != shared]
    command = ["unshare", *wanted, "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
        try:
            assert maker.stdout is not None
            assert maker.stdout.readline() == b"\n"
            [pid] = children(maker.pid)
            yield pid
        finally:
            maker.kill()


@pytest.mark.parametrize("name", [*jail.NAMESPACES, "user"])
def test_a_namespace_that_is_the_launchers_is_named(root: None, name: str) -> None:
    with sharing(name) as pid, pytest.raises(AssertionError, match=f"its {name} namespace is the launcher's"):
        jail.verify(pid, os.getuid(), Group(Layout.none(), ""))
