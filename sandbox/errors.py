"""Everything that can go wrong that is not the program's fault.

A program that raises, spins, exits or eats its memory is an `Execution` with a status. What is drawn here is
ours, the host's or the caller's, and every message says what to do next::

    SandboxError
    ├── InvalidRequest       the caller asked for something that cannot be
    │   ├── InvalidCode          not UTF-8, or too long
    │   ├── InvalidPath          leaves /mnt/data, or is no possible name
    │   ├── InvalidLimits        out of range on this host
    │   ├── InvalidSetting       a setting's value is not usable
    │   ├── InvalidField         a field of another API's request
    │   ├── ContainerExpired     the container was idle for too long
    │   └── TooLarge             more bytes than are taken
    ├── Unauthorized         no key, or not one of ours
    ├── Forbidden            a browser page that is not ours to serve
    ├── NotFound             the named thing does not exist, or belongs to another key
    │   ├── UnknownImage         no such images/<name>
    │   ├── SessionMissing       no such session
    │   ├── ExecutionMissing     no such execution in the session
    │   ├── FileMissing          no such file in the workspace
    │   │   └── FileForbidden        there is, and its program lets nobody at it
    │   ├── ContainerMissing     no such container
    │   ├── TraceMissing         no such trace
    │   ├── ObjectMissing        no such object of another API
    │   └── UnknownModel         no upstream has a model of that name
    ├── Conflict             the thing exists but cannot take this now
    │   ├── SessionClosed        closed, or its sandbox died
    │   ├── SessionExpired       idle for longer than its idle timeout
    │   ├── IdempotencyConflict  its Idempotency-Key came with another request before
    │   └── DataDirInUse         another server keeps its data there
    ├── Overloaded           bounded, and full
    │   ├── QueueFull            too many wait already
    │   ├── Draining             the server is about to stop
    │   └── RateLimited          a limit of the key is reached
    ├── WorkspaceFull        /mnt/data has no room for it
    ├── Unready              this host cannot do it yet
    │   ├── HostUnfit            privileges, cgroups or namespaces are missing
    │   ├── ImageNotBuilt        the image has no library root here, or a damaged one
    │   └── Unreachable          no server of ours answers there
    ├── SandboxFailed        a sandbox could not be made, or broke its promises
    │   └── ProtocolError        bytes from a sandbox that no guest of ours writes
    └── UpstreamError        a model's server did not answer as it should
        ├── UpstreamRefused      it will not take this request, now or later
        ├── UpstreamBusy         it has too much to do, or we have asked too often
        └── UpstreamFailed       it is away, broke off, was too slow, or said what nobody understands
"""


class SandboxError(Exception):
    """Root of everything this package raises on its own account."""


class InvalidRequest(SandboxError, ValueError):
    """The caller asked for something that cannot be."""


class InvalidCode(InvalidRequest):
    """The code is not valid UTF-8 or over the length cap."""


class InvalidPath(InvalidRequest):
    """The path leaves `/mnt/data` or is no possible file name."""


class InvalidLimits(InvalidRequest):
    """A limit is out of range on this host."""


class InvalidSetting(InvalidRequest):
    """A setting has a value that cannot be used."""


class InvalidField(InvalidRequest):
    """A field of a request has a value that cannot be, or that is not offered here."""

    def __init__(self, field: str, message: str = "") -> None:
        """field: as the client named it, with dots into what is nested. One argument alone is all of the words, from
        where they are read again.
        """
        super().__init__(f"{field}: {message}" if message else field)
        self.field = field if message else ""


class ContainerExpired(InvalidRequest):
    """The container was idle for too long, and nothing is left in it; make a new one."""


class TooLarge(InvalidRequest):
    """A body, file or code has more bytes than are taken."""


class Unauthorized(SandboxError):
    """The request bears no key, or one that was never made or is revoked."""


class Forbidden(SandboxError):
    """A browser sent it for a page that has no business here."""


class NotFound(SandboxError, LookupError):
    """The named thing does not exist, or belongs to another key."""


class UnknownImage(NotFound):
    """There is no image of that name."""


class SessionMissing(NotFound):
    """There is no such session of this key."""


class ExecutionMissing(NotFound):
    """There is no such execution in the session."""


class FileMissing(NotFound):
    """There is no such regular file in the workspace."""


class FileForbidden(FileMissing):
    """The file's mode, or that of a directory above, forbids it to everybody but root, whom no sandbox has."""


class ContainerMissing(NotFound):
    """There is no such container of this key."""


class TraceMissing(NotFound):
    """There is no such trace of this key."""


class ObjectMissing(NotFound):
    """There is no such object of this key: a response, an assistant, a thread, a run."""


class UnknownModel(NotFound):
    """No upstream has a model of that name."""


class Conflict(SandboxError):
    """The thing exists but cannot take this request now."""


class SessionClosed(Conflict):
    """The session was closed, or its sandbox died; open a new one."""


class SessionExpired(Conflict):
    """The session was idle for longer than its idle timeout; open a new one."""


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used before, with another request."""


class DataDirInUse(Conflict):
    """Another server keeps its data in this directory."""


class Overloaded(SandboxError):
    """A bounded resource is full; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Overloaded):
    """Too many already wait in this queue."""


class Draining(Overloaded):
    """The server takes no new work because it is about to stop."""


class RateLimited(Overloaded):
    """A limit of the key is reached."""

    def __init__(
        self, message: str, retry_after: float, *, name: str, limit: int, remaining: int, reset: float
    ) -> None:
        super().__init__(message, retry_after)
        self.name = name
        """Of `sessions`, `running`, `per_minute`, `stored_bytes`."""
        self.limit = limit
        self.remaining = remaining
        self.reset = reset
        """Seconds until all of the limit is free again."""


class WorkspaceFull(SandboxError):
    """`/mnt/data` has no room for the file."""


class Unready(SandboxError):
    """This host cannot do it yet."""

    retry_after = 5.0
    """Seconds. What is more special than this waits for a person, and trying again will not help soon."""


class HostUnfit(Unready):
    """Privileges, cgroups or namespaces are missing; `sandbox doctor` says how to get them."""

    retry_after = 60.0


class ImageNotBuilt(Unready):
    """The image has no usable library root here; run `sandbox image build`."""

    retry_after = 60.0


class Unreachable(Unready):
    """No server answers there, or none that speaks this API; raised by clients only."""


class SandboxFailed(SandboxError):
    """A sandbox could not be made, or broke its promises; it has been destroyed."""


class ProtocolError(SandboxFailed):
    """Bytes came out of a sandbox that no guest of ours writes."""


class UpstreamError(SandboxError):
    """A model's server did not answer as it should."""

    def __init__(self, message: str, *, upstream: str = "", status: int | None = None) -> None:
        """upstream: its name in the settings. status: of HTTP, if there was an answer."""
        super().__init__(message)
        self.upstream = upstream
        self.status = status


class UpstreamRefused(UpstreamError):
    """It will not take this request, now or later: a bad field, a bad key, no such model."""

    def __init__(
        self,
        message: str,
        *,
        upstream: str = "",
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        """code, param: as the upstream named them."""
        super().__init__(message, upstream=upstream, status=status)
        self.code = code
        self.param = param


class UpstreamBusy(UpstreamError):
    """It has too much to do, or we have asked too often."""

    def __init__(
        self, message: str, *, upstream: str = "", status: int | None = None, retry_after: float | None = None
    ) -> None:
        """retry_after: seconds, if it said so."""
        super().__init__(message, upstream=upstream, status=status)
        self.retry_after = retry_after


class UpstreamFailed(UpstreamError):
    """It is away, broke off, was too slow, or said what nobody understands."""
