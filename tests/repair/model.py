"""A model on any server that speaks OpenAI's chat completions, and the protocol that small ones can keep."""

from dataclasses import dataclass, field
from types import TracebackType

import httpx

from sandbox.loop.fence import AFTER_ERROR, program
from sandbox.loop.tool import Unusable, code_of

_SYSTEM = "You repair Python programs. Answer with the complete corrected program in one ```python fence."


@dataclass(slots=True)
class Conversation:
    """What has been said about one program."""

    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def about(cls, task: str, code: str, error: str) -> "Conversation":
        """Begin with a program that failed."""
        asked = f"{task}\n\n```python\n{code.strip()}\n```\n\nThis was run:\n{error}\n\n{AFTER_ERROR}"
        return cls([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}])

    def failed(self, answer: str, error: str) -> None:
        """Go on with how the answer failed."""
        told = f"This was run:\n{error}\n\n{AFTER_ERROR}"
        self.messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": told}]


class Model:
    """One model. Use as an async context manager."""

    def __init__(self, url: str, name: str, key: str = "", max_tokens: int = 500) -> None:
        """url: of the API, with its `/v1`."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=600)
        self._name = name
        self._max_tokens = max_tokens
        self.spent = 0
        """Tokens, in and out, as the server counts them."""

    async def __aenter__(self) -> "Model":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def answer(self, conversation: Conversation) -> str:
        """What it says; greedy. Raises `httpx.HTTPError`."""
        body = {
            "model": self._name,
            "messages": conversation.messages,
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        response = await self._client.post("/chat/completions", json=body)
        response.raise_for_status()
        value = response.json()
        self.spent += (value.get("usage") or {}).get("total_tokens", 0)
        return str(value["choices"][0]["message"].get("content") or "")


def code_in(answer: str) -> str:
    """The program in an answer: in its fence, or all of it."""
    found = program(answer)
    if found is not None:
        return found
    try:
        return code_of(answer)
    except Unusable:
        return answer
