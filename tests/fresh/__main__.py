"""`scripts/fresh`: README's two commands on machines that have nothing but what a stock install has.

The machines' files are in memory, some 3 GB at a time.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fresh import release as releases
from tests.fresh.machine import hide, scratch
from tests.fresh.visit import USERS, Outcome, Row, visit

RELEASES = ("bookworm", "trixie")


def main() -> int:
    options = _options()
    if os.geteuid() != 0:
        print("a machine takes root: sudo scripts/fresh", file=sys.stderr)
        return 2
    # So that whoever ends us, everything is taken down on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    hide()
    began, counts = time.monotonic(), Counter[Outcome]()
    for row in visited(options.release or RELEASES, options.user or USERS, options):
        counts[row.outcome] += 1
        print(f"{row.release:<9}  {row.user:<6}  {row.step:<26}  {row.outcome:<6}  {row.words}".rstrip(), flush=True)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome)
    print(f"{told} in {time.monotonic() - began:.0f} s; nothing is left of the machines")
    return 1 if counts[Outcome.FAILED] or not counts else 0


def visited(names: Sequence[str], users: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """Every step of every user on every release, each user's on a machine of their own."""
    for name in names:
        with scratch() as place:
            bare = options.bare or place / "bare"
            try:
                if options.bare is None:
                    releases.make(name, options.variant, bare)
            except releases.NotOffered as error:
                yield Row(name, "-", "bare root", Outcome.FAILED, str(error))
                continue
            for user in users:
                yield from visit(bare, name, user)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fresh", description=__doc__)
    parser.add_argument("--release", action="append", help=f"may be repeated; default: {', '.join(RELEASES)}")
    parser.add_argument("--user", action="append", choices=USERS, help="may be repeated; default: both")
    parser.add_argument("--variant", default="standard", help="of mmdebstrap: the packages that the machine comes with")
    parser.add_argument("--bare", type=Path, help="a root of the release that was made before; it is only read")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
