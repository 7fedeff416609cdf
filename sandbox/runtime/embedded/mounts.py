"""The root a program sees.

The launcher stages the sources once, as host root, in its own mount namespace. Each sandbox then builds its root
from the stage with paths relative to it, because from inside the user namespace the way to an image under a
private directory could not be walked.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.runtime.embedded import linux

DEVICES = ("null", "zero", "full", "random", "urandom")
WATCHED_DEVICES = tuple(name for name in DEVICES if name != "zero")
"""Where memory is watched: what is mapped of `zero` and shared is memory that need not belong to any process."""
_HOSTS_DEVICES = "/dev"
_DEVICES_HERE = "devices"
"""Below a stage, where nodes can be made."""
_USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
VENV = "/opt/venv"
"""Where the image's libraries lie inside."""
CODE = "/opt/sandbox"
"""Where our own modules are: for the zygote, and nobody else; for every kernel where each is executed."""
PRELOAD = "/opt/image/preload.py"
WORKSPACE = "/mnt/data"


@dataclass(frozen=True, slots=True)
class Layer:
    """A read-only tree of the host, shown at the same place in every sandbox."""

    source: str
    """Below the stage."""
    target: str
    """Absolute, inside."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Who is who inside one sandbox, in ids of the shared user namespace."""

    init: int
    kernel: int
    shown: int
    """The kernel's id as a program sees it."""

    @property
    def single(self) -> bool:
        """Whether they are the same to the host, so that namespaces alone tell them apart."""
        return self.init == self.kernel


@dataclass(frozen=True, slots=True)
class Sizes:
    """Caps of the writable mounts, in bytes."""

    workspace: int
    files: int
    temporary: int
    shared_memory: int


def stage(directory: Path, image: Path, system: Path, prefix: Path, code: Path) -> None:
    """Bind everything that sandboxes show below `directory`. For a process with a mount namespace of its own.

    image: the image's library root; system: the file system with its programs; prefix: where its Python interpreter is
    installed in there; code: our package.
    """
    linux.mount("stage", str(directory), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    sources = {"usr": system / "usr", "image": image, "guest": code / "guest"}
    sources["prefix"] = system / prefix.relative_to("/")
    sources["embedded"] = code / "runtime" / "embedded"
    if _alternatives(system).is_dir():
        sources["alternatives"] = _alternatives(system)
    for name, source in sources.items():
        (directory / name).mkdir()
        _bind(str(source), str(directory / name))
    for name in ("empty", "root", "preload", *([_DEVICES_HERE] if _may_make_nodes(directory) else [])):
        (directory / name).mkdir()
    # By itself, because the rest of the image's root says where on the host it was made.
    (directory / "preload" / "preload.py").write_bytes((image / "preload.py").read_bytes())


def _bind(source: str, target: str) -> None:
    try:
        linux.mount(source, target, None, linux.MS_BIND)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # An ordinary user may not uncover what other mounts below it cover. Overlays do not reach into them anyway.
        linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)


def layers(system: Path, prefix: Path) -> tuple[Layer, ...]:
    """What every sandbox shows."""
    shown = [Layer("usr", "/usr"), Layer("image/venv", VENV)]
    if not prefix.is_relative_to("/usr"):
        shown.append(Layer("prefix", str(prefix)))
    if _alternatives(system).is_dir():
        shown.append(Layer("alternatives", "/etc/alternatives"))
    return tuple(shown)


def _alternatives(system: Path) -> Path:
    return system / "etc" / "alternatives"


ZYGOTE_LAYERS = (
    Layer("image", "/opt/image"),
    Layer("guest", f"{CODE}/sandbox/guest"),
    Layer("embedded", f"{CODE}/sandbox/runtime/embedded"),
)
"""What a zygote's root shows besides."""

FRESH_LAYERS = (Layer("preload", "/opt/image"), Layer("guest", f"{CODE}/sandbox/guest"))
"""What sandboxes show besides whose kernels import the libraries themselves."""


def readable(shown: Sequence[Layer]) -> tuple[str, ...]:
    """The trees that a kernel may read: our own modules from the top, where the search for them begins."""
    return tuple(CODE if layer.target.startswith(f"{CODE}/") else layer.target for layer in shown)


def devices() -> str:
    """Where a new sandbox finds its device nodes: it gets its own, because locks on the host's, and their times, would
    be everybody's. For whoever may make none (`sandbox doctor` tells root who may not) it is where the host has them.

    For a process of which the sandbox is made, before it belongs to a user namespace: it gets a mount namespace. The
    stage must be the working directory.
    """
    if not os.path.isdir(_DEVICES_HERE):
        return _HOSTS_DEVICES
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    # One for each: how many nodes there are, and their numbers, would tell of other sandboxes.
    options = "size=4k,nr_inodes=16,mode=755"
    linux.mount("devices", _DEVICES_HERE, "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, options)
    for name in DEVICES:
        _make_node(f"{_DEVICES_HERE}/{name}", name)
        os.chmod(f"{_DEVICES_HERE}/{name}", 0o666)
    return _DEVICES_HERE


def _make_node(path: str, name: str) -> None:
    os.mknod(path, stat.S_IFCHR, os.stat(f"{_HOSTS_DEVICES}/{name}").st_rdev)


def _may_make_nodes(directory: Path) -> bool:
    try:
        _make_node(str(directory / "null"), "null")
    except PermissionError:
        return False
    (directory / "null").unlink()
    return True


def build(
    shown: Sequence[Layer],
    sizes: Sizes,
    ids: Ids,
    *,
    proc: bool,
    nodes: str = _HOSTS_DEVICES,
    devices: Sequence[str] = DEVICES,
) -> None:
    """Make the root in the current mount namespace and pivot into it. The stage must be the working directory.

    With `proc`, the caller must be PID 1 of its pid namespace. nodes: the directory with its device nodes, as
    `devices()` gives it. devices: those that it shows. Raises `OSError` at the first step that fails.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    tight = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("root", "root", "tmpfs", tight, "size=256k,nr_inodes=128,mode=755")
    for layer in shown:
        os.makedirs(f"root{layer.target}", exist_ok=True)
        # An overlay gives each sandbox inodes of its own: a shared bind would let sandboxes see each other's
        # file locks and notifications. Without an upper layer it wants two lower ones.
        linux.mount(
            "overlay",
            f"root{layer.target}",
            "overlay",
            linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV,
            f"lowerdir=empty:{layer.source}",
        )
    for name in _USR_LINKS:
        if os.path.isdir(f"root/usr/{name}"):
            os.symlink(f"usr/{name}", f"root/{name}")
    _etc(ids)
    _show_devices(nodes, devices)
    os.makedirs("root/proc")
    if proc:
        options = f"subset=pid,hidepid=invisible,gid={ids.init}"
        linux.mount("proc", "root/proc", "proc", tight, options)
    os.makedirs(f"root{WORKSPACE}")
    os.makedirs("root/tmp")
    _writable("root/dev/shm", sizes.shared_memory, 512, "mode=1777")
    _writable("root/tmp", sizes.temporary, 4096, "mode=1777")
    _writable(f"root{WORKSPACE}", sizes.workspace, sizes.files, f"mode=700,uid={ids.kernel},gid={ids.kernel}")
    _pivot()
    linux.mount("none", "/dev", None, linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NOEXEC)
    linux.mount("none", "/", None, linux.MS_REMOUNT | linux.MS_RDONLY | tight)


def _writable(target: str, size: int, files: int, options: str) -> None:
    tight = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("tmpfs", target, "tmpfs", tight, f"size={size},nr_inodes={files},{options}")


def _etc(ids: Ids) -> None:
    os.makedirs("root/etc", exist_ok=True)
    user = f"sandbox:x:{ids.shown}:{ids.shown}:sandbox:/tmp:/bin/sh"
    files = {
        "passwd": f"root:x:0:0:root:/:/bin/false\n{user}\n",
        "group": f"root:x:0:\nsandbox:x:{ids.shown}:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name, text in files.items():
        with open(f"root/etc/{name}", "w") as file:
            file.write(text)
    os.symlink("/usr/share/zoneinfo/UTC", "root/etc/localtime")


def _show_devices(source: str, names: Sequence[str]) -> None:
    os.makedirs("root/dev")
    options = "size=64k,nr_inodes=32,mode=755"
    linux.mount("dev", "root/dev", "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, options)
    for name in names:
        os.close(os.open(f"root/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        linux.mount(f"{source}/{name}", f"root/dev/{name}", None, linux.MS_BIND)
        if source == _HOSTS_DEVICES:
            _keep_times(f"root/dev/{name}")
    os.mkdir("root/dev/shm")
    os.symlink("/proc/self/fd", "root/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"root/dev/{name}")


def _keep_times(device: str) -> None:
    """Through a mount that is read-only a device can be written to, but not its inode."""
    flags = os.statvfs(device).f_flag
    kept = sum(mounted for shown, mounted in linux.LOCKED_FLAGS.items() if flags & shown)
    linux.mount("none", device, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | kept)


def _pivot() -> None:
    os.chdir("root")
    linux.pivot_root(b".", b".")
    linux.umount(".")
    os.chdir("/")
