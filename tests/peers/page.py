"""A run as a page for people: `docs/benchmarks.md`."""

from collections.abc import Iterator

from tests.peers.figure import MEASURES, Figure
from tests.peers.peer import PEERS, Peer
from tests.peers.run import Measured, Run

NAME = "benchmarks"
"""Of the files that are written, and of those in `docs`."""
_OURS = PEERS[0].name
_HEAD = """# Beside its peers

The same work on this project's server and on other ways to run a model's code, in one run on one machine. Made by
`{command}`, which installs the peers into environments of their own and writes this page,
`{json}` and the picture; do not edit them.

- {date}, {minutes} minutes; {machine}, {cores} cores, {memory:.1f} GiB; load average before a measure: {load}{busy}
- {versions}

Each cell: median, or rate, or count; × is its ratio to ours, embedded; n is how many were measured. A dagger leads to
what a peer cannot.

"""
_METHOD = """
![The figures as points on logarithmic axes]({svg})

## What is measured

{measures}

The containers of the others stand on one image, which has the libraries that the measures need at the versions of
ours. Docker's storage, network and daemon are the same for all. Code and drivers are in `tests/peers`.

## What the cells do not say

{notes}
"""


def page(run: Run) -> str:
    """Whole, as it is committed."""
    loads = [figure.load for peer in run.peers.values() for figure in peer.figures.values()]
    head = _HEAD.format(
        command=run.command,
        json=f"{NAME}.json",
        date=run.date,
        minutes=max(1, round(run.seconds / 60)),
        machine=run.machine,
        cores=run.cores,
        memory=run.memory_gib,
        load=f"{min(loads):.1f} to {max(loads):.1f}" if loads else "not known",
        busy="; **others were at work on it: compare rows, no number by itself**"
        if min(loads, default=0) > run.cores
        else "",
        versions=", ".join(f"{what} {version}" for what, version in run.versions.items()),
    )
    measures = "\n".join(f"- **{measure.title}**: {measure.method}" for measure in MEASURES.values())
    notes = "\n".join(f"- {note}." for note in _notes(run))
    return head + table(run) + _METHOD.format(svg=f"{NAME}.svg", measures=measures, notes=notes)


def table(run: Run) -> str:
    """A row for each peer, a column for each measure."""
    titles = [f"{each.title}, {each.unit}" if each.unit else each.title for each in MEASURES.values()]
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'--:|' * len(titles)}"]
    ours = run.peers.get(_OURS, Measured()).figures
    for peer in PEERS:
        if peer.name in run.peers:
            figures = run.peers[peer.name].figures
            cells = [_cell(name, figures.get(name, Figure()), ours.get(name, Figure())) for name in MEASURES]
            lines.append(f"| {named(peer, run.peers[peer.name])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def named(peer: Peer, measured: Measured) -> str:
    """With the versions of what was installed."""
    if len(measured.versions) == 1:
        return f"{peer.title}, {next(iter(measured.versions.values()))}"
    versions = ", ".join(f"{what} {version}" for what, version in measured.versions.items())
    return f"{peer.title}, {versions}" if versions else peer.title


def number(value: float) -> str:
    """As many digits as there is a use for."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def _cell(measure: str, figure: Figure, ours: Figure) -> str:
    if figure.value is None:
        return "cannot †" if figure.cannot else "–"
    if not MEASURES[measure].ratio:
        return figure.note.partition(";")[0] if figure.value else "0"
    told = [number(figure.value) + (" †" if figure.cannot else "")]
    if figure is not ours and figure.value > 0 and ours.value is not None and ours.value > 0:
        told.append(f"×{number(figure.value / ours.value)}")
    return " · ".join([*told, f"n {figure.runs}"])


def _notes(run: Run) -> Iterator[str]:
    for peer in PEERS:
        measured = run.peers.get(peer.name)
        if measured is None:
            continue
        if measured.absent:
            yield f"{peer.title} was not measured: {measured.absent}"
            continue
        if peer.note:
            yield f"{peer.title}: {peer.note}"
        if measured.standing_mib:
            yield f"{peer.title}: server and pool take {number(measured.standing_mib)} MiB (PSS) before anybody asks"
        for name, figure in measured.figures.items():
            if ";" in figure.note:
                yield f"{peer.title}, {MEASURES[name].title}: {figure.note}"
            if figure.cannot:
                note = f" ({figure.note})" if figure.note else ""
                yield f"† {peer.title}, {MEASURES[name].title}: {figure.cannot}{note}"
    yield "Ours, when a client dies and the server does not: its sessions stay until they have been idle for long"
