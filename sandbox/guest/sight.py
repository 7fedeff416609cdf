"""How much of a workspace was seen, by the same rules at both ends of the channel: what was not seen may be there."""

from dataclasses import dataclass

MAX_SHUT = 64
"""Directories that are named; where more are shut, the whole is not told of."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Of a look at all of it."""

    complete: bool = True
    """Whether every file that has a path was seen, but for those in what is `shut`."""
    shut: tuple[str, ...] = ()
    """Directories that the program's own modes keep everybody out of; "" is the workspace itself."""

    @property
    def whole(self) -> bool:
        """Whether nothing that has a path was left out."""
        return self.complete and not self.shut

    def tells_of(self, path: str) -> bool:
        """Whether a file that was not seen is not there."""
        return self.complete and not any(path.startswith(f"{shut}/" if shut else "") for shut in self.shut)
