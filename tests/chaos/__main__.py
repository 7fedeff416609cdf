"""`scripts/chaos`: sessions come and go while the server and its parts are killed; then nothing may be left."""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sandbox.runtime.embedded import linux
from tests.chaos.churn import Household, Tally, churn


def main() -> int:
    options = _options()
    linux.become_subreaper()  # orphans are found among our own
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        began = time.monotonic()
        tally, orphans = asyncio.run(_run(Path(directory), options))
    print(_table(tally, orphans, time.monotonic() - began))
    for told in [*tally.lies[:10], *orphans[:10]]:
        print(told, file=sys.stderr)
    return 1 if tally.lies or orphans else 0


async def _run(directory: Path, options: argparse.Namespace) -> tuple[Tally, list[str]]:
    household = Household(directory, options.pool)
    try:
        tally = await churn(household, options.sessions, options.clients, options.share, random.Random(options.seed))
    finally:
        await household.stop()
    return tally, await household.orphans()


def _table(tally: Tally, orphans: list[str], seconds: float) -> str:
    rows = {
        "sessions": f"{tally.sessions} in {seconds:.0f} s",
        "killed": ", ".join(f"{count} × {name}" for name, count in tally.kills.most_common()) or "nobody",
        "executions and errors told": ", ".join(f"{count} × {name}" for name, count in tally.told.most_common()),
        "lies": str(len(tally.lies)),
        "orphans (processes, groups, directories, mounts)": str(len(orphans)),
    }
    if tally.recoveries_s:
        rows["a new server's first answer, median and longest"] = (
            f"{statistics.median(tally.recoveries_s):.1f} s, {max(tally.recoveries_s):.1f} s"
        )
    if tally.descriptors:
        rows["descriptors of the server, first and last tenth"] = _drift(tally.descriptors, 1, "")
        rows["its resident memory, first and last tenth"] = _drift([size for _, size in tally.resident], 1 << 20, " MB")
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _drift(values: list[int], unit: int, name: str) -> str:
    tenth = max(1, len(values) // 10)
    first, last = (statistics.median(part) / unit for part in (values[:tenth], values[-tenth:]))
    return f"{first:.0f}{name}, {last:.0f}{name}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--sessions", type=int, default=500, help="how many, in all")
    parser.add_argument("--clients", type=int, default=8, help="how many at a time")
    parser.add_argument("--share", type=float, default=0.05, help="of sessions that meet a death")
    parser.add_argument("--pool", type=int, default=4, help="warm sandboxes")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of what is random")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
