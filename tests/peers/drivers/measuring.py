"""What all drivers do with their boxes. Runs in the peers' environments: the standard library, and nothing of ours."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

PRINT = "print(1)"
CHART = """import pandas as pd, matplotlib.pyplot as plt
pd.DataFrame({"x": range(10), "y": [i * i for i in range(10)]}).plot(x="x", y="y")
plt.show()
"""
LEAST = 3
"""How often everything is done, however long it takes."""
AT_ONCE = 2
TRIES = 4
"""Boxes that are opened to be held, and how often each; some peers give up when the machine is too busy."""


@dataclass(frozen=True)
class Shown:
    """What came back of a program."""

    text: str
    images: int = 0


class Box(Protocol):
    """Whatever a peer runs code in."""

    def run(self, code: str) -> Shown: ...

    def close(self) -> None: ...


Open = Callable[[], Box]


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what came of it."""
    start = time.perf_counter()
    came = act()
    return 1000 * (time.perf_counter() - start), came


def printed(box: Box) -> None:
    """It works, or the times of it say nothing."""
    shown = box.run(PRINT)
    if shown.text.strip() != "1":
        raise RuntimeError(f"print(1) showed {shown!r}")


def fresh(open_box: Open, options: argparse.Namespace) -> dict[str, Any]:
    """From nothing to the program's end, and with the box's own end; of `print(1)` or of a chart."""
    first: list[float] = []
    cycles: list[float] = []
    images: list[int] = []
    failed: list[str] = []
    end = time.perf_counter() + options.seconds
    while len(first) + len(failed) < LEAST or (len(first) < options.count and time.perf_counter() < end):
        start = time.perf_counter()
        try:
            with contextlib.closing(open_box()) as box:
                if options.measure == "fresh":
                    printed(box)
                else:
                    images.append(box.run(CHART).images)
                first.append(1000 * (time.perf_counter() - start))
        except Exception as error:  # whatever a peer raises
            failed.append(str(error))
        else:
            cycles.append(1000 * (time.perf_counter() - start))
    return {"first_ms": first, "cycle_ms": cycles, "images": images, "failed": failed}


def second(open_box: Open, options: argparse.Namespace) -> dict[str, Any]:
    """Calls in one box after its first, and whether it remembers them."""
    times: list[float] = []
    with contextlib.closing(open_box()) as box:
        printed(box)
        end = time.perf_counter() + options.seconds
        while len(times) < LEAST or (len(times) < options.count and time.perf_counter() < end):
            times.append(timed(lambda: printed(box))[0])
        keeps = remembers(box)
    return {"call_ms": times, "keeps": keeps}


def remembers(box: Box) -> bool:
    """Whether a call finds the variables of the one before."""
    box.run("kept = 1")
    try:
        return box.run("print(kept)").text.strip() == "1"
    except Exception:  # a NameError, as each peer tells it
        return False


def rate(open_box: Open, options: argparse.Namespace) -> dict[str, Any]:
    """Boxes opened, used once and closed by some clients at once: those that were begun within the time, all ended."""
    failed: list[str] = []
    start = time.perf_counter()

    def client(_: int) -> int:
        done = 0
        while time.perf_counter() < start + options.seconds:
            try:
                with contextlib.closing(open_box()) as box:
                    printed(box)
            except Exception as error:  # whatever a peer raises
                failed.append(str(error))
            else:
                done += 1
        return done

    with ThreadPoolExecutor(options.clients) as clients:
        done = sum(clients.map(client, range(options.clients)))
    return {"done": done, "seconds": time.perf_counter() - start, "failed": failed}


def opened_in_the_end(open_box: Open) -> Box:
    """How long it takes is not measured here."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):  # whatever a peer raises
            return open_box()
    return open_box()


def main(open_box: Open, open_charting: Open | None = None) -> None:
    """Do what the command line says, and write it to the descriptor that it names: libraries write to the others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=["fresh", "chart", "second", "rate", "hold"])
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args()
    with contextlib.ExitStack() as held:
        measures = {"fresh": fresh, "chart": fresh, "second": second, "rate": rate}
        if options.measure == "hold":
            with ThreadPoolExecutor(AT_ONCE) as opening:
                boxes = list(opening.map(lambda _: opened_in_the_end(open_box), range(options.count)))
            closing = held.enter_context(ThreadPoolExecutor(options.count))
            held.callback(lambda: list(closing.map(lambda box: box.close(), boxes)))
            for box in boxes:
                printed(box)
            result: dict[str, Any] = {"boxes": len(boxes)}
        else:
            opens = open_charting if options.measure == "chart" and open_charting is not None else open_box
            result = measures[options.measure](opens, options)
        with os.fdopen(options.fd, "w") as out:
            json.dump(result, out)
        if options.measure == "hold":
            sys.stdin.read()  # until we may go, if we live to see it
