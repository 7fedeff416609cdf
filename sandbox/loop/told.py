"""What a model is told of an execution."""

from collections.abc import Sequence

from sandbox.execution import Execution
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Image, Text
from sandbox.remote import File


def told(
    execution: Execution,
    facts: Facts,
    files: Sequence[File] = (),
    *,
    code: str,
    pictures: bool,
    again: int = 0,
    left: int | None = None,
    lost: bool = False,
) -> tuple[Text | Image, ...]:
    """The status first, then what came out of it, then hints.

    files: what lies in `/mnt/data` now. pictures: the model sees images. again: how often exactly this failure has been
    told before. left: attempts that remain after this one; None says nothing about it. lost: variables went with an
    earlier execution of this session.
    """
    return (Text(execution.status.value),)
