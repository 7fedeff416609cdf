"""Everything that can go wrong that is not the program's fault.

A program that raises, spins, exits or eats its memory is an `Execution` with a status. What is drawn here is
ours, the host's or the caller's, and every message says what to do next::

    SandboxError
    ├── InvalidRequest       the caller asked for something that cannot be
    │   ├── InvalidCode          not UTF-8, or too long
    │   ├── InvalidPath          leaves /mnt/data, or is no possible name
    │   ├── InvalidLimits        out of range on this host
    │   └── InvalidSetting       a setting's value is not usable
    ├── NotFound             the named thing does not exist
    │   ├── UnknownImage         no such images/<name>
    │   └── FileMissing          no such file in the workspace
    ├── Conflict             the thing exists but cannot take this now
    │   ├── SessionClosed        closed, or its sandbox died
    │   └── SessionExpired       idle for longer than its idle timeout
    ├── Overloaded           bounded, and full
    │   └── QueueFull            too many executions wait in this session
    ├── WorkspaceFull        /mnt/data has no room for it
    ├── Unready              this host cannot do it yet
    │   ├── HostUnfit            privileges, cgroups or namespaces are missing
    │   └── ImageNotBuilt        the image has no library root here, or a damaged one
    └── SandboxFailed        a sandbox could not be made, or broke its promises
        └── ProtocolError        bytes from a sandbox that no guest of ours writes
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


class NotFound(SandboxError, LookupError):
    """The named thing does not exist."""


class UnknownImage(NotFound):
    """There is no image of that name."""


class FileMissing(NotFound):
    """There is no such regular file in the workspace."""


class Conflict(SandboxError):
    """The thing exists but cannot take this request now."""


class SessionClosed(Conflict):
    """The session was closed, or its sandbox died; open a new one."""


class SessionExpired(Conflict):
    """The session was idle for longer than its idle timeout; open a new one."""


class Overloaded(SandboxError):
    """A bounded resource is full; try again later."""


class QueueFull(Overloaded):
    """Too many executions already wait in this session."""


class WorkspaceFull(SandboxError):
    """`/mnt/data` has no room for the file."""


class Unready(SandboxError):
    """This host cannot do it yet."""


class HostUnfit(Unready):
    """Privileges, cgroups or namespaces are missing; `sandbox doctor` says how to get them."""


class ImageNotBuilt(Unready):
    """The image has no usable library root here; run `sandbox image build`."""


class SandboxFailed(SandboxError):
    """A sandbox could not be made, or broke its promises; it has been destroyed."""


class ProtocolError(SandboxFailed):
    """Bytes came out of a sandbox that no guest of ours writes."""
