"""Values: what is asked of a sandbox, and what came out of it."""

import dataclasses
import functools
import mimetypes
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from sandbox.errors import InvalidLimits

MIB = 1 << 20
_SUFFIX = 32
"""Characters of a name that may say what it is."""

# The smallest cap in which a forked kernel of the default image starts, draws and survives its own full disk.
MIN_MEMORY_MB = 192


class Status(StrEnum):
    """How an execution ended. The set is closed."""

    OK = "ok"
    ERROR = "error"
    """The program raised."""
    TIMEOUT = "timeout"
    """The wall clock ran out."""
    INTERRUPTED = "interrupted"
    """Somebody called `interrupt`."""
    OOM = "oom"
    """The memory cap was hit and the kernel died of it."""
    KILLED = "killed"
    """The kernel died otherwise; `Execution.reason` says how."""
    CANCELLED = "cancelled"
    """It was taken back before it ran, or its session ended under it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard caps of one sandbox, all its processes together. Raises `InvalidLimits` when out of range."""

    memory_mb: int = 512
    """MiB; files in `/mnt/data` and `/tmp` count towards it."""
    cpus: float = 1.0
    """Cores' worth of time per second."""
    processes: int = 128
    """Processes and threads."""
    disk_mb: int | None = None
    """MiB in `/mnt/data`; None means half the memory cap, 256 at most."""
    files: int = 8192
    """Files and directories in `/mnt/data`."""
    output_bytes: int = 1 * MIB
    """Bytes kept of stdout, and again of stderr; more is counted, marked and spilled."""
    results: int = 100
    """Rich results kept per execution."""
    result_bytes: int = 8 * MIB
    """Bytes of one rich result, encoded as JSON."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            given, kind = getattr(self, each.name), int | float if each.name == "cpus" else int
            if given is not None and (isinstance(given, bool) or not isinstance(given, kind)):
                raise InvalidLimits(f"{each.name} is {given!r}; give a {'whole ' * (kind is int)}number")
        bounds: tuple[tuple[str, float, float, float], ...] = (
            ("memory_mb", self.memory_mb, MIN_MEMORY_MB, 1 << 20),
            ("cpus", self.cpus, 0.05, 1024),
            ("processes", self.processes, 16, 4096),
            ("disk_mb", self.disk, 1, self.memory_mb - 96),
            ("files", self.files, 16, 1_000_000),
            ("output_bytes", self.output_bytes, 1024, 64 * MIB),
            ("results", self.results, 1, 1000),
            ("result_bytes", self.result_bytes, 1024, 16 * MIB),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise InvalidLimits(f"{name} is {value:.12g}; choose a value from {low:.12g} to {high:.12g}")

    @property
    def disk(self) -> int:
        """MiB in `/mnt/data`, with the default resolved."""
        return min(256, self.memory_mb // 2) if self.disk_mb is None else self.disk_mb


@dataclass(frozen=True, slots=True)
class Spec:
    """What to start. Equal specs are interchangeable, which is what lets a pool warm them."""

    image: str = "python"
    limits: Limits = field(default_factory=Limits)
    network: Literal["none"] = "none"
    env: tuple[tuple[str, str], ...] = ()
    """Environment variables of the kernel, as pairs."""
    oci_runtime: str = ""
    """What runs a container, by the name that the Docker daemon has for it (`runc`, `runsc`); empty is its default."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Text written to stdout or stderr."""

    name: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """A MIME bundle: a displayed object, or the value of the last expression."""

    data: Mapping[str, Any]
    """MIME type to content; binary content in base64, as nbformat has it."""
    execution_count: int | None = None
    """Set for the value of the last expression, None for something displayed."""


@dataclass(frozen=True, slots=True)
class Error:
    """What the program raised."""

    name: str
    value: str
    traceback: str
    """Without colour; the user's own frames first."""
    looked_in: str = ""
    """Where a name or key was not found, if the live objects told: `columns of df: DataFrame`."""
    available: tuple[str, ...] = ()
    """What there is instead, as a program would write it: keys as literals, names bare; the nearest first."""


Output = Stream | Result | Error


@dataclass(frozen=True, slots=True)
class Functions:
    """Functions of the caller's that a program may await: `answer = await get_weather("Oslo")`."""

    parameters: Mapping[str, tuple[str, ...]]
    """Function to the names of its parameters in the order of positional arguments. Names are Python's."""
    answer_within_s: float = 270.0
    """Of each call; then the program sees a `TimeoutError`."""


@dataclass(frozen=True, slots=True)
class Called:
    """A program waits for a function of the caller's."""

    id: str
    """What it is answered by; of no other call anywhere."""
    name: str
    arguments: Mapping[str, Any]
    """JSON, as the program would have it: whether they fit the function is for the caller to judge."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Those that a program made at once: none of them need be answered before another."""

    calls: tuple[Called, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call has come to."""

    call_id: str
    text: str
    """What the program gets; 1 Mi characters at most. Those that failed raise an exception with it."""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """A workspace file that an execution made or changed."""

    path: str
    """Relative to `/mnt/data`."""
    size: int
    mime: str
    change: Literal["created", "changed"]

    def told(self) -> dict[str, Any]:
        """Its fields by name, for JSON. There may be thousands, each of which `asdict` would take a while for."""
        return {"path": self.path, "size": self.size, "mime": self.mime, "change": self.change}


@dataclass(frozen=True, slots=True)
class Truncated:
    """What was dropped: bytes of text, and rich results or the larger ones of their forms."""

    stdout: int = 0
    stderr: int = 0
    results: int = 0

    def __bool__(self) -> bool:
        return bool(self.stdout or self.stderr or self.results)


@dataclass(frozen=True, slots=True)
class Execution:
    """One piece of code run in a kernel, and the truth about how it ended."""

    id: str
    session_id: str
    status: Status
    reason: str = ""
    """Words for a person where the status alone does not say enough, else empty."""
    stdout: str = ""
    stderr: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    """MIME bundles in the order they were shown; the last expression's value is last."""
    error: Error | None = None
    artifacts: tuple[Artifact, ...] = ()
    removed: tuple[str, ...] = ()
    """Workspace files that it deleted, by path."""
    execution_count: int | None = None
    duration_ms: float = 0.0
    """From our clock: code handed to the kernel until its end was known."""
    cpu_ms: float = 0.0
    """From the cgroup: all processes of the sandbox."""
    peak_memory_bytes: int = 0
    """From the cgroup: the most the sandbox held during this execution."""
    truncated: Truncated = Truncated()
    state_lost: bool = False
    """True when the kernel had to be replaced: variables are gone, files are not."""


_FIELDS = tuple(Execution.__dataclass_fields__)


def as_json(execution: Execution) -> dict[str, Any]:
    """Its fields by name, for JSON. `results` are not copied: a program may have nested them without end."""
    told = {name: getattr(execution, name) for name in _FIELDS}
    return told | {
        "status": execution.status.value,
        "error": None if execution.error is None else asdict(execution.error),
        "artifacts": [artifact.told() for artifact in execution.artifacts],
        "truncated": asdict(execution.truncated),
    }


def mime_of(path: str) -> str:
    """The MIME type that a file's name promises."""
    name = path.rpartition("/")[2].lstrip(".")
    _, *suffixes = name.rsplit(".", 2)
    return _mime_of("".join([f".{suffix}" for suffix in suffixes])[-_SUFFIX:])


@functools.lru_cache(256)
def _mime_of(suffixes: str) -> str:
    # To look it up takes as long as everything else about a file, of which there may be thousands.
    return mimetypes.guess_type(f"file{suffixes}")[0] or "application/octet-stream"
