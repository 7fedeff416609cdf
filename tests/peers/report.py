"""The figures as a table for people."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from typing import Any

from tests.peers.bench import BOXES, LOST, PEERS, Figures

_COLUMNS = (
    "fresh → printed 1, ms",
    "with its end, ms",
    "second call, ms",
    "fresh + pandas + chart, ms",
    "fresh per s, 4 clients",
    "8 clients",
    "idle, MiB",
    "left by a crash",
)


def document(figures: Mapping[str, Figures], absent: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "seconds": round(seconds),
        "peers": {name: dataclasses.asdict(each) for name, each in figures.items()},
        "absent": dict(absent),
    }


def markdown(figures: Mapping[str, Figures], absent: Mapping[str, str]) -> str:
    """The table, and below it what its cells do not say. A time has its ratio to ours where ours was measured."""
    ours = figures.get(PEERS[0].name, Figures())
    lines = [f"| | {' | '.join(_COLUMNS)} |", f"|---|{'--:|' * len(_COLUMNS)}"]
    notes = []
    for peer in PEERS:
        if peer.name in absent:
            lines.append(f"| {peer.title} | {' | '.join(['–'] * len(_COLUMNS))} |")
            notes.append(f"{peer.title} was not measured: {absent[peer.name]}")
        elif peer.name in figures:
            each = figures[peer.name]
            lines.append(f"| {peer.title} | {' | '.join(_cells(each, ours, peer.state))} |")
            notes += [f"{peer.title}: {peer.note}"] if peer.note else []
            notes += [f"{peer.title}, {measure}: {' '.join(why.split())}" for measure, why in each.why.items()]
    loads = [load for each in figures.values() for load in each.load.values()]
    notes += [
        "¹ a new interpreter, which knows nothing of the call before",
        "Ours comes from a pool of sandboxes that are warm before they are asked for, which none of the others has; "
        "they start cold. A pool that is empty costs ours what `sandbox bench cold` says.",
        "The image of the others has the libraries that the measures need, at our versions, and fewer than ours has.",
        f"Idle: the proportional memory of all processes of one of {BOXES} boxes, 5 s after its first call, and in "
        "parentheses by how much the machine's available memory went down.",
        *(
            [f"Ours takes {ours.standing_mib:.0f} MiB besides, for server, zygote and pool."]
            if ours.standing_mib
            else []
        ),
        f"Left by a crash: processes and containers 15 s after the end, by SIGKILL, of who had {LOST} boxes open; for "
        "ours that is the server. A client that dies leaves its sessions, which end when they have been idle for long.",
        *([f"Load average of the machine before a measure: {min(loads):.1f} to {max(loads):.1f}."] if loads else []),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _cells(each: Figures, ours: Figures, state: bool) -> list[str]:
    chart = _time(each.chart_ms, ours.chart_ms)
    idle = "–" if each.idle_mib is None else f"{each.idle_mib:.0f} ({each.available_mib or 0:.0f})"
    left = "–" if each.left is None else "0" if each.left == 0 else str(each.left)
    return [
        _time(each.fresh_ms, ours.fresh_ms),
        _time(each.cycle_ms, ours.cycle_ms),
        _time(each.second_ms, ours.second_ms) + ("" if state else " ¹"),
        chart if each.images or each.images is None else f"{chart}, no picture",
        _rate(each.rate_4),
        _rate(each.rate_8),
        idle,
        left,
    ]


def _time(value: float | None, ours: float | None) -> str:
    if value is None:
        return "–"
    shown = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
    return shown if ours is None or value == ours else f"{shown} (×{value / ours:.2g})"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"
