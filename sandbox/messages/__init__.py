"""Anthropic's Messages with code execution: a model that may be anybody's, and containers that are sessions here.

One request is one run of the loop. The caller repeats all that was said with the next, so nothing is kept here but the
session, which is the container, and the files that were captured.
"""

from sandbox.messages.container import IDLE_TIMEOUT_S
from sandbox.messages.requests import Messages
from sandbox.messages.run import Run

__all__ = ["IDLE_TIMEOUT_S", "Messages", "Run"]
