"""OpenAI's Assistants (version 2) on the wire, without I/O.

objects   what there is: runs, their steps, messages of a thread, as JSON
asking    a thread and a run as what a model is asked
outputs   what a program put out, as the outputs of a step
writing   the events of a loop as steps, messages, and the stream's events about them
"""

from sandbox.loop.links import Link, links
from sandbox.loop.openai_assistants.asking import request
from sandbox.loop.openai_assistants.objects import assistant, message, run, step, thread
from sandbox.loop.openai_assistants.outputs import picture
from sandbox.loop.openai_assistants.writing import Cited, StreamEvent, Writing, answered

__all__ = [
    "Cited",
    "Link",
    "StreamEvent",
    "Writing",
    "answered",
    "assistant",
    "links",
    "message",
    "picture",
    "request",
    "run",
    "step",
    "thread",
]
