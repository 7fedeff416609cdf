"""A run as a picture: points on logarithmic axes, because a bar would have to begin at a zero that is not there."""

import math
from collections.abc import Iterator
from xml.sax.saxutils import escape

from tests.peers.figure import MEASURES, Figure
from tests.peers.page import number
from tests.peers.peer import PEERS, Peer
from tests.peers.run import Run

PANELS = (("fresh", "cycle", "second"), ("chart", "rate_8", "idle"))
_BETTER = {"rate_8": "more is better"}
_NAMES, _PANEL, _GAP, _ROW, _TITLE, _AXIS, _MARGIN = 250, 230, 30, 24, 40, 30, 16
_INK, _FAINT, _OURS, _OTHERS = "#1f2933", "#dde3ea", "#c2410c", "#52708f"
_STYLE = "font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px"


def drawing(run: Run) -> str:
    """SVG, the same for the same run."""
    peers = [peer for peer in PEERS if peer.name in run.peers and not run.peers[peer.name].absent]
    height = _TITLE + _ROW * len(peers) + _AXIS
    width = 2 * _MARGIN + _NAMES + len(PANELS[0]) * (_PANEL + _GAP)
    parts = [_rectangle(width, 2 * _MARGIN + len(PANELS) * height)]
    for row, measures in enumerate(PANELS):
        top = _MARGIN + row * height
        parts += [_text(_MARGIN, _line(top, place), *_name(peer)) for place, peer in enumerate(peers)]
        for column, measure in enumerate(measures):
            parts += _panel(run, peers, measure, _MARGIN + _NAMES + column * (_PANEL + _GAP), top)
    size = f'viewBox="0 0 {width} {2 * _MARGIN + len(PANELS) * height}" width="{width}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{_STYLE}">\n{body}\n</svg>\n'


def _panel(run: Run, peers: list[Peer], measure: str, left: int, top: int) -> Iterator[str]:
    figures = [run.peers[peer.name].figures.get(measure, Figure()) for peer in peers]
    values = [figure.value for figure in figures if figure.value is not None and figure.value > 0]
    low = math.floor(math.log10(min(values, default=1)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=1))))
    title = f"{MEASURES[measure].title}, {MEASURES[measure].unit}"
    yield _text(left, top + 14, title, _INK, "font-weight:600")
    yield _text(left, top + 29, _BETTER.get(measure, "less is better"), _OTHERS, "font-size:11px")
    bottom = top + _TITLE + _ROW * len(peers)
    # Room for the last number is left of the panel's end.
    decade = (_PANEL - 40) / (high - low)
    for power in range(low, high + 1):
        at = left + decade * (power - low)
        yield f'<path d="M{at:.1f} {top + _TITLE}V{bottom}" stroke="{_FAINT}"/>'
        yield _text(at, bottom + 14, f"{10.0**power:,g}", _OTHERS, "font-size:10px;text-anchor:middle")
    for place, (peer, figure) in enumerate(zip(peers, figures, strict=True)):
        height = _line(top, place)
        if figure.value is None or figure.value <= 0:
            yield _text(left + 4, height, "cannot" if figure.cannot else "–", _OTHERS, "font-style:italic")
            continue
        at, colour = left + decade * (math.log10(figure.value) - low), _name(peer)[1]
        yield f'<circle cx="{at:.1f}" cy="{height - 4}" r="5" fill="{colour}"/>'
        told = number(figure.value) + (" †" if figure.cannot else "")
        # First in white and broad, so that no line of the axis crosses the number.
        yield _text(at + 9, height, told, "#fff", "stroke:#fff;stroke-width:3px")
        yield _text(at + 9, height, told, colour)


def _line(top: int, place: int) -> int:
    return top + _TITLE + _ROW * place + 16


def _name(peer: Peer) -> tuple[str, str]:
    """What it is called, and its colour."""
    return peer.title.replace("`", ""), _OURS if peer.service is not None else _OTHERS


def _rectangle(width: int, height: int) -> str:
    return f'<rect width="{width}" height="{height}" fill="#fff"/>'


def _text(left: float, height: float, words: str, colour: str = _INK, style: str = "") -> str:
    return f'<text x="{left:.1f}" y="{height:.1f}" fill="{colour}" style="{style}">{escape(words)}</text>'
