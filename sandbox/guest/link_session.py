"""Where ipykernel and IPython believe that they send messages to Jupyter's clients."""

import json
import os
from typing import Any

from jupyter_client.jsonutil import json_clean, json_default
from jupyter_client.session import Session

from sandbox.guest import bounds
from sandbox.guest.frames import MAX_BODY
from sandbox.guest.link import KernelEnd

_TOLD = frozenset({"display_data", "update_display_data", "execute_result", "error", "wants"})
"""Of Jupyter's messages: those that init wants to hear."""


class LinkSession(Session):
    """Where ipykernel and IPython send to: what matters of their messages goes over the link."""

    link: KernelEnd
    room = MAX_BODY
    """Bytes of one rich result that init would keep."""

    @classmethod
    def linked(cls) -> "LinkSession":
        """With a link that has nobody at its other end yet."""
        session = cls(key=b"", pack=_packed)
        session.link = KernelEnd()
        return session

    def send(
        self, stream: Any, msg_or_type: Any, content: Any = None, parent: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """One message; its header, metadata and buffers stay here."""
        if os.getpid() != self.pid:
            return
        if isinstance(msg_or_type, dict):
            kind, content, request = msg_or_type["msg_type"], msg_or_type["content"], msg_or_type["parent_header"]
        else:
            kind, request = msg_or_type, (parent or {}).get("header", parent)
        if kind in _TOLD:
            self.link.send(kind, str((request or {}).get("msg_id", "-")), self._fitting(content))

    def _fitting(self, content: dict[str, Any]) -> bytes:
        """The content as JSON. Of a result's forms those that init would keep: others only take its time."""
        packed: bytes = self.pack(content)
        if len(packed) > self.room and "data" in content:
            content = json.loads(packed)
            kept, _, left_out = bounds.result(content, self.room)
            told = {"data": kept, "execution_count": content.get("execution_count"), bounds.LEFT_OUT: left_out}
            packed = self.pack(told)
        return packed


def _packed(content: Any) -> bytes:
    """As JSON; a number that is none becomes null. jupyter_client would make it a text, and warn in the program."""
    try:
        text = json.dumps(content, default=json_default, ensure_ascii=False, allow_nan=False)
    except TypeError:  # keys of another kind, mostly
        text = json.dumps(json_clean(content), default=json_default, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(content, default=json_default, ensure_ascii=False)
        text = json.dumps(json.loads(text, parse_constant=lambda name: None), ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape")
