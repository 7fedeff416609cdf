"""OpenAI's Responses on the wire, for programs and without I/O.

asked          a request: `read` makes an `Asked` of it
items          its input in one form, and the files it brings
conversation   the input as messages of a model
writing        a response and the events of its making: `Writing`
outputs        what an execution put out, as its item has it
citations      files of a container that an answer speaks of

What is read may be of any age of the SDKs, or an item that was given out here before. What changes the meaning of a
request and is not offered is refused with `InvalidField`; other fields are said again or left alone.
"""

from sandbox.loop.links import PREFIX
from sandbox.loop.openai_responses.asked import OUTPUTS, Asked, Interpreter, read
from sandbox.loop.openai_responses.citations import ContainerFile, figure, links
from sandbox.loop.openai_responses.conversation import Files, check_answered, completed, messages
from sandbox.loop.openai_responses.items import Given, files
from sandbox.loop.openai_responses.outputs import Figure, figures, outputs, status
from sandbox.loop.openai_responses.writing import Event, Status, Writing, counted, place, response, shown

__all__ = [
    "OUTPUTS",
    "PREFIX",
    "Asked",
    "ContainerFile",
    "Event",
    "Figure",
    "Files",
    "Given",
    "Interpreter",
    "Status",
    "Writing",
    "check_answered",
    "completed",
    "counted",
    "figure",
    "figures",
    "files",
    "links",
    "messages",
    "outputs",
    "place",
    "read",
    "response",
    "shown",
    "status",
]
