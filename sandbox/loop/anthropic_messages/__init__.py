"""Anthropic's Messages on the wire, without I/O.

Towards an upstream, that is asked:

calling   `body` makes a request for an upstream
reading   `Reading` makes a reply of a stream's events, `whole` one of a message in one piece, `error` finds what either
          says went wrong

Towards a program, that asks:

asked     `asked` reads a request, `named` the files in it
said      what was said so far, in it
writing   `Writing` makes an answer, as events and as a whole
tools     the sub-tools of code execution, by the type of the tool: `VERSIONS`
results   what came of their calls; `programs` are what they run

Thinking and whatever other blocks there may be are kept as `Opaque` and given back as they came: they are signed.
`ValueError` is for what cannot be understood.
"""

from sandbox.loop.anthropic_messages.calling import MAX_TOKENS, body
from sandbox.loop.anthropic_messages.reading import Reading, error, usage, whole

__all__ = ["MAX_TOKENS", "Reading", "body", "error", "usage", "whole"]
