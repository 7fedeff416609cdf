"""`python -m tests.demo.serve MODEL.gguf NAME THREADS`: Qwen2.5-Coder as a server; runs in the engine's environment.

Greedy, whatever `temperature` says, so that two runs say the same.
"""

import codecs
import ctypes
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile

# In the engine's environment only:
import numpy  # type: ignore[import-not-found]
from ik_llama_cpp import _ctypes_api as llama  # type: ignore[import-not-found]
from ik_llama_cpp._internals import IkContext, IkModel, make_batch_range  # type: ignore[import-not-found]

from tests.demo.completions import TooLong, serve

_CONTEXT = 8192
"""Tokens that it can hold; a conversation of this loop has 500 to 3000."""
_LONGEST = 256
"""Bytes of one token."""
_ROLES = frozenset({"system", "user", "assistant"})


class Qwen:
    """A model that was trained on ChatML. One answer at a time.

    The package's own class would sample in Python over all 150,000 logits (a tenth of a second each) and speak another
    model's language, so this uses what lies below it.
    """

    def __init__(self, path: str, name: str, threads: int) -> None:
        self.name = name
        self._model = IkModel(path)
        self._context = IkContext(self._model, n_ctx=_CONTEXT, n_threads=threads, flash_attn=False)
        self._held: list[int] = []
        """The tokens that the context has seen."""
        self._usage = (0, 0, False)
        self._forget = llama._lib.llama_kv_cache_seq_rm
        self._forget.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]

    def usage(self) -> tuple[int, int, bool]:
        """Of the last answer."""
        return self._usage

    def write(self, messages: Sequence[tuple[str, str]], most: int) -> Iterator[str]:
        """See `completions.Writer`."""
        prompt = self._prompt(messages)
        most = min(most, _CONTEXT - len(prompt))
        if most <= 0:
            raise TooLong(f"these are {len(prompt)} tokens, and {_CONTEXT} is the most; context_length_exceeded")
        began = time.monotonic()
        known = self._read(prompt)
        read = time.monotonic()
        out, bytes_ = 0, codecs.getincrementaldecoder("utf-8")("replace")
        self._usage = (len(prompt), 0, True)
        try:
            while out < most:
                token = self._likeliest()
                if llama.llama_token_is_eog(self._model.model, token):
                    self._usage = (len(prompt), out, False)
                    break
                out += 1
                self._usage = (len(prompt), out, True)
                yield bytes_.decode(self._bytes(token))
                self._see([token])
        finally:
            _log(len(prompt), known, read - began, out, time.monotonic() - read)

    def _prompt(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """What is said is never read as a mark of ChatML."""
        tokens: list[int] = []
        for role, text in messages:
            tokens += self._model.tokenize(f"<|im_start|>{role if role in _ROLES else 'user'}\n", **_MARKS)
            tokens += self._model.tokenize(text, add_bos=False, special=False) if text else []
            tokens += self._model.tokenize("<|im_end|>\n", **_MARKS)
        tokens += self._model.tokenize("<|im_start|>assistant\n", **_MARKS)
        return tokens

    def _read(self, prompt: list[int]) -> int:
        """See what of the prompt is new; how much was known, because a conversation begins as its last turn did."""
        # The last token is always seen anew: the next one follows from it.
        same = takewhile(lambda pair: pair[0] == pair[1], zip(self._held, prompt[:-1], strict=False))
        known = sum(1 for _ in same)
        self._forget(self._context.ctx, 0, known, -1)
        del self._held[known:]
        size = self._context._n_ubatch
        for start in range(known, len(prompt), size):
            self._see(prompt[start : start + size])
        return known

    def _see(self, tokens: list[int]) -> None:
        batch = make_batch_range(tokens, pos_start=len(self._held))
        try:
            if self._context.decode(batch):
                raise RuntimeError("the engine has failed")
        finally:
            llama.llama_batch_free(batch)
        self._held += tokens

    def _likeliest(self) -> int:
        logits = self._context.get_logits()
        return int(numpy.ctypeslib.as_array(logits, (self._model.n_vocab,)).argmax())

    def _bytes(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(_LONGEST)
        count: int = llama.llama_token_to_piece(self._model.model, token, buffer, _LONGEST, 0, False)
        return buffer.raw[: max(count, 0)]


_MARKS = {"add_bos": False, "special": True}


def _log(prompt: int, known: int, reading: float, out: int, writing: float) -> None:
    words = f"read {prompt - known} of {prompt} tokens in {reading:.1f} s, wrote {out} in {writing:.1f} s"
    print(f"[model] {words}, {out / max(writing, 0.001):.1f}/s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    serve(Qwen(sys.argv[1], sys.argv[2], int(sys.argv[3])))
