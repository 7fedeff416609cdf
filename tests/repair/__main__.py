"""`scripts/bench-repair`: how many tokens each style of error text takes, and how often a model repairs from it."""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import time
from dataclasses import dataclass, field

from sandbox import image
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.execution import Status
from sandbox.image import Manifest
from tests.repair import Program, facts_of, prepare, programs
from tests.repair.model import Conversation, Model, code_in
from tests.repair.styles import RAW_STYLES, STYLES, ours, raw
from tests.repair.tokens import tokens


@dataclass(slots=True)
class Score:
    """Of one style."""

    tokens: dict[str, int] = field(default_factory=dict)
    """By program."""
    repaired: dict[str, int] = field(default_factory=dict)
    """Program to the attempt that worked; 0 for none."""

    def within(self, attempts: int) -> int:
        """How many were repaired in as many attempts."""
        return sum(0 < attempt <= attempts for attempt in self.repaired.values())


class Bench:
    """All programs in all styles."""

    def __init__(self, engine: Engine, manifest: Manifest, model: Model | None, attempts: int) -> None:
        self._engine = engine
        self._manifest = manifest
        self._model = model
        self._attempts = attempts
        self.scores = {style: Score() for style in STYLES}

    async def run(self, program: Program, styles: list[str]) -> None:
        """One program."""
        texts, _ = await self._texts(program, program.code, STYLES)
        for style in STYLES:
            self.scores[style].tokens[program.name] = tokens(texts[style])
        if self._model is not None:
            for style in styles:
                self.scores[style].repaired[program.name] = await self._repair(
                    self._model, program, style, texts[style]
                )

    async def _texts(self, program: Program, code: str, styles: tuple[str, ...]) -> tuple[dict[str, str], bool]:
        """What these styles say of a run of this code, and whether it did what the program is for."""
        ran = dataclasses.replace(program, code=code)
        async with self._engine.session() as session:
            await prepare(session, ran)
            execution = await session.execute(code, program.timeout)
            files = await session.list()
        facts = facts_of(self._manifest, program.timeout)
        texts = dict(ours(execution, ran, facts, files))
        repaired = program.repaired(execution)
        if execution.status is not Status.OK and set(RAW_STYLES).intersection(styles):
            async with self._engine.session() as session:
                texts |= dict(zip(RAW_STYLES, await raw(session, ran), strict=True))
        said = execution.stdout or "It printed nothing."
        return {style: texts.get(style, said) for style in STYLES}, repaired

    async def _repair(self, model: Model, program: Program, style: str, error: str) -> int:
        conversation = Conversation.about(program.task, program.code, error)
        for attempt in range(1, self._attempts + 1):
            answer = await model.answer(conversation)
            texts, repaired = await self._texts(program, code_in(answer), (style,))
            if repaired:
                return attempt
            conversation.failed(answer, texts[style])
        return 0


async def _main(arguments: argparse.Namespace) -> None:
    chosen = [each for each in programs() if not arguments.only or arguments.only in each.name][: arguments.first]
    manifest = image.load("python", Settings.load().images_dir).manifest
    styles = arguments.style or list(STYLES)
    async with Engine.open(Settings.load()) as engine:
        model = None
        if arguments.url:
            model = Model(arguments.url, arguments.model, os.environ.get("OPENAI_API_KEY", ""))
        bench = Bench(engine, manifest, model, arguments.attempts)
        began = time.monotonic()
        for number, program in enumerate(chosen, 1):
            await bench.run(program, styles)
            found = {style: bench.scores[style].repaired.get(program.name) for style in styles} if model else ""
            print(f"[{number}/{len(chosen)}] {program.name} {found}", file=sys.stderr, flush=True)
        seconds = time.monotonic() - began
        if model is not None:
            await model.__aexit__(None, None, None)
    _report(bench, arguments, len(chosen), styles)
    if model is not None:
        print(f"{model.spent} tokens by the server's count, {seconds:.0f} s")


def _report(bench: Bench, arguments: argparse.Namespace, number: int, styles: list[str]) -> None:
    if arguments.json:
        print(json.dumps({style: {"tokens": s.tokens, "repaired": s.repaired} for style, s in bench.scores.items()}))
        return
    attempts = range(1, arguments.attempts + 1) if arguments.url else ()
    print(f"{number} programs")
    print(f"{'style':<20}{'tokens':>8}{'mean':>7}{'most':>7}" + "".join(f"{f'by {k}':>8}" for k in attempts))
    for style, score in bench.scores.items():
        counts = list(score.tokens.values())
        line = f"{style:<20}{sum(counts):>8}{sum(counts) / len(counts):>7.0f}{max(counts):>7}"
        print(line + "".join(f"{score.within(k) if style in styles else '–':>8}" for k in attempts))


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-repair", description=__doc__)
    parser.add_argument("--url", help="an OpenAI-compatible API, with its /v1; the key is read from OPENAI_API_KEY")
    parser.add_argument("--model", default="default", help="the name that it knows the model by")
    parser.add_argument("--attempts", type=int, default=3, help="how often a model may try")
    parser.add_argument("--style", action="append", choices=STYLES, help="let the model see these styles only")
    parser.add_argument("--only", default="", help="programs whose names contain this")
    parser.add_argument("--first", type=int, help="as many programs")
    parser.add_argument("--json", action="store_true", help="print one JSON document, by program")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_main(_parsed()))
