"""What a loop says to a model besides what came of its code."""

from sandbox.execution import Execution

NUDGE = "Your last message was empty. Write your answer, or call one of your tools."
LAST_WORD = (
    "{reason} No more code can be run. Answer now from what you have seen. Say plainly what could not be done, and do "
    "not make up results."
)
REPEATED = "This is run {count} of the same code with the same outcome. It will not change: answer, or do otherwise."
TOO_MANY = "Not run: these are too many calls at once. Write one program."
NO_ATTEMPT = "Not run: no attempt is left."
NO_EXECUTION = "Not run: no more calls of this tool are allowed. Answer from what you have seen."
UNAVAILABLE = "Not run: there is no sandbox for it now ({error}). Try once more, or answer without it."
CUT_OFF = "Your call was cut off because the answer became too long. Write a shorter program, or do it in steps."


def in_a_line(execution: Execution) -> str:
    """How it failed, in short."""
    error = execution.error
    words = f"{error.name}: {error.value}" if error else f"{execution.status}: {execution.reason}"
    return words.strip().partition("\n")[0][:300]
