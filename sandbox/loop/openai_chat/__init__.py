"""OpenAI's Chat Completions on the wire, in both directions and without I/O.

calling   ⎫ for an upstream: `body` makes a request, `Reading` a reply of a stream's chunks, `whole` one of an answer
reading   ⎭ in one piece, `error` finds what either says went wrong
asked     ⎫ for a program: `request` reads what it asks, `answer` and `Writing` make what it is told
writing   ⎭ and of an upstream's own chunks `Gathering` a whole answer, `passing` chunks as OpenAI's own would be

What is written is what OpenAI's specification says. What is read is whatever servers that call themselves compatible
send: tool calls without index or id, arguments in one piece, as an object or as a legacy `function_call`, a
`finish_reason` that does not fit, usage nowhere or twice. `ValueError` is for what cannot be understood even so.
"""

from sandbox.loop.openai_chat.asked import request
from sandbox.loop.openai_chat.calling import LIMIT, body
from sandbox.loop.openai_chat.gathering import Gathering, is_plural
from sandbox.loop.openai_chat.reading import Reading, error, usage, whole
from sandbox.loop.openai_chat.writing import Writing, answer, counted

__all__ = [
    "LIMIT",
    "Gathering",
    "Reading",
    "Writing",
    "answer",
    "body",
    "counted",
    "error",
    "is_plural",
    "request",
    "usage",
    "whole",
]
