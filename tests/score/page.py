"""The record as a page for people: what was promised, and what was measured of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.score.record import Entry, Record
from tests.scoreboard import RUNTIMES

_HEAD = """# Scoreboard

Written by `scripts/scoreboard` from what it has measured, `scoreboard.json` beside this page; a part that is measured
again replaces what was here. What is **bold** does not keep its promise. When each part was measured, and under which
load, is [below](#when-and-where).
"""
_NONE = "not measured"
_QUIET = 1.0
"""Load average above which a machine has other things to do."""


def page(record: Record) -> str:
    """The whole of it."""
    shown = [runtime for runtime in RUNTIMES if any(runtime in entries for entries in record.values())]
    parts = [_HEAD, _caveat(record), _promises(record, shown)]
    for title, part, words in _DETAILS:
        if part in record:
            parts += [f"## {title}\n", f"{words}\n", _figures(record[part], shown)]
    parts += [_churn(record, shown), _losses(record, shown), _corpus(record, shown), _provenance(record)]
    return "\n".join(part for part in parts if part)


def _caveat(record: Record) -> str:
    """What a reader has to know before he believes a time."""
    entries = [(part, runtime, each) for part, all_ in record.items() for runtime, each in all_.items()]
    busy = [f"{part} ({runtime})" for part, runtime, each in entries if each.load[0] > _QUIET]
    fewer = [f"{part} ({runtime})" for part, runtime, each in entries if each.scale < 1]
    told = []
    if busy:
        told.append(f"**Measured on a machine busy with other things: {', '.join(busy)}.** Its times say little.\n")
    if fewer:
        told.append(f"Measured with fewer runs than usual: {', '.join(fewer)}.\n")
    return "\n".join(told)


# The promises.


def _promises(record: Record, shown: Sequence[str]) -> str:
    rows = []
    for words, bound, part, cell in _PROMISES:
        entries = record.get(part, {})
        rows.append([words, bound, *(cell(entries[each].result) if each in entries else _NONE for each in shown)])
    return _table(["what is promised", "", *shown], rows)


def _told(text: str, held: bool) -> str:
    return text if held else f"**{text}**"


def _corpus_cell(score: Any) -> str:
    text = f"{score['passed']} of {score['total']} rows, {score['skipped']} skipped"
    if score["failed"]:
        text += f", {score['failed']} failed"
    return _told(text, not score["failed"])


def _orphans(churn: Any) -> str:
    killed = sum(churn["kills"].values())
    return _told(
        f"{len(churn['orphans'])} after {churn['sessions']:,} sessions, {killed:,} kills", not churn["orphans"]
    )


def _lies(churn: Any) -> str:
    return _told(f"{len(churn['lies'])} of {sum(churn['told'].values()):,} answers", not churn["lies"])


def _lost(losses: Any) -> str:
    lost = sum(losses["lost"].values())
    return _told(f"{lost:,} of {losses['written'] / 1e6:,.0f} MB", not lost)


def _victim(figures: Any) -> str:
    ratios = [figure for figure in figures if figure["unit"] == "×" and figure["name"].endswith("p99")]
    worst = max(ratios, key=lambda figure: figure["value"])
    broken = [figure for figure in ratios if figure["value"] > 2]
    text = f"{worst['value']:.1f} at worst"
    return _told(f"{text}, {len(broken)} of {len(ratios)} above" if broken else text, not broken)


def _figure(name: str, unit: str) -> Callable[[Any], str]:
    """A figure by the beginning and the end of its name."""
    begin, _, end = name.partition("…")

    def cell(figures: Any) -> str:
        [found] = [each for each in figures if each["name"].startswith(begin) and each["name"].endswith(end)]
        return _told(f"{found['value']:.3g} {unit}", found["value"] <= found["must"])

    return cell


def _leaks(leaks: Any) -> str:
    text = f"{len(leaks['leaks'])} of {leaks['sessions']:,} sessions, {leaks['canaries']:,} canaries"
    return _told(text, not leaks["leaks"])


_PROMISES: Sequence[tuple[str, str, str, Callable[[Any], str]]] = (
    ("attacks that were held", "all but what a runtime lacks", "corpus", _corpus_cell),
    ("processes, containers, groups, directories, mounts left after churn", "0", "churn", _orphans),
    ("answers during the churn that were not true", "0", "churn", _lies),
    ("bytes lost without a mark", "0", "losses", _lost),
    ("a victim's p99 beside an attacker, over its p99 alone", "≤ 2", "victim", _victim),
    ("`kill -9` to ready, pool of 20, median", "≤ 2 s", "recovery", _figure("kill -9 to ready…p50", "s")),
    ("a timeout told too late, p99", "≤ 250 ms", "overshoot", _figure("too late, of all timeouts, p99", "ms")),
    ("sessions in which something of another was found", "0", "leaks", _leaks),
)

# The details.

_DETAILS = (
    (
        "A victim",
        "victim",
        "`sandbox bench --strain victim`: `print(1)` over HTTP in a session of its own, again and again, alone and "
        "beside another session that takes all it can get of one thing, in turns; the pool is full when that begins. "
        "Ratios of the same quantile.",
    ),
    (
        "Recovery",
        "recovery",
        "`sandbox bench --strain recovery`: a server with a full pool and four sessions that compute is killed, and "
        "the next one is started at once over the same data. Ready is what `/health` calls so: a sandbox has "
        "started, and what is asked begins at once. On Docker the next server has the warm sandboxes of the dead one "
        "([runtimes.md](runtimes.md#docker)), unless all of its processes are killed, as when a container is.",
    ),
    (
        "Timeouts",
        "overshoot",
        "`sandbox bench --strain overshoot`: how much later than promised the answer is here. Promised is the "
        "timeout; to programs that do not end when they are interrupted, two seconds more, because they get those "
        "before they are killed.",
    ),
)


def _figures(entries: Mapping[str, Entry], shown: Sequence[str]) -> str:
    names = list(dict.fromkeys(figure["name"] for entry in entries.values() for figure in entry.result))
    pairs = list(dict.fromkeys(name.removesuffix(", p50").removesuffix(", p99") for name in names))
    rows = []
    for name in pairs:
        cells = []
        for runtime in shown:
            found = [each for each in entries[runtime].result if _belongs(each, name)] if runtime in entries else []
            cells.append(" / ".join(_value(each) for each in found) or _NONE)
        both = f"{name}, p50 / p99" if {f"{name}, p50", f"{name}, p99"} <= set(names) else name
        rows.append([both if both != name or name in names else _only(name, names), *cells])
    return _table(["", *shown], rows)


def _belongs(figure: Mapping[str, Any], name: str) -> bool:
    return figure["name"] in (name, f"{name}, p50", f"{name}, p99")


def _only(name: str, names: Sequence[str]) -> str:
    return next(each for each in names if each in (f"{name}, p50", f"{name}, p99"))


def _value(figure: Mapping[str, Any]) -> str:
    unit = "" if figure["unit"] == "×" else f" {figure['unit']}"
    return _told(
        f"{figure['value']:.2f}{unit}" if figure["value"] < 10 else f"{figure['value']:.0f}{unit}",
        figure["value"] <= figure["must"],
    )


def _churn(record: Record, shown: Sequence[str]) -> str:
    entries = record.get("churn", {})
    if not entries:
        return ""
    words = (
        "As `scripts/chaos`: sessions come and go while somebody kills what serves them. What a client is told may be "
        "an error that says so; a success with anything else in it than the program said is a lie. Who was killed:"
    )
    lines = ["## Churn", "", words, ""]
    for runtime in shown:
        if runtime in entries:
            churn = entries[runtime].result
            lines.append(f"- {runtime}: {_counted(churn['kills'])}. Told: {_counted(churn['told'])}.")
            lines += [f"  Never the {who}: {why}." for who, why in churn.get("spared", {}).items()]
    return "\n".join(lines) + "\n"


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{count:,} × {name}" for name, count in most) or "nobody"


def _losses(record: Record, shown: Sequence[str]) -> str:
    entries = record.get("losses", {})
    if not entries:
        return ""
    writers = list(dict.fromkeys(name for entry in entries.values() for name in entry.result["lost"]))
    rows = [
        [name, *(_lost_by(entries[each].result, name) if each in entries else _NONE for each in shown)]
        for name in writers
    ]
    words = (
        "Every byte is compared with what must have been written: it is shown, or counted in the mark that stands "
        "where it was left out; a file that the mark names has all of them. Bytes lost, by who wrote them:"
    )
    return f"## Bytes\n\n{words}\n\n{_table(['', *shown], rows)}"


def _lost_by(result: Any, name: str) -> str:
    lost = result["lost"].get(name)
    return _NONE if lost is None else _told(f"{lost:,}", not lost)


def _corpus(record: Record, shown: Sequence[str]) -> str:
    entries = record.get("corpus", {})
    if not entries:
        return ""
    words = (
        "`pytest -m attack --scoreboard FILE`; a row is as bad as the worst of its tests, and skipped when all of them "
        "were. What walls a runtime lacks, so that tests are skipped, is in "
        "[runtimes.md](runtimes.md#what-a-runtime-cannot-hold)."
    )
    lines = ["## Attacks", "", words, ""]
    for runtime in shown:
        if runtime not in entries:
            continue
        score = entries[runtime].result
        tests = f"{score['tests']} tests" + (f" ({score['left_out']} skipped)" if score.get("left_out") else "")
        lines.append(f"- {runtime}: {tests} of {score['total']} rows, {score['passed']} passed.")
        if score["failures"]:
            lines.append(f"  **Failed: {', '.join(score['failures'])}.**")
        for reason in sorted({reason for reasons in score["skips"].values() for reason in reasons}):
            ids = [id for id, reasons in score["skips"].items() if reason in reasons]
            lines.append(f"  Skipped {', '.join(ids)}: {reason}.")
    return "\n".join(lines) + "\n"


def _provenance(record: Record) -> str:
    rows = [
        [part, runtime, entry.date, f"{entry.load[0]} – {entry.load[1]}", f"{entry.scale:g}", f"{entry.seconds:,.0f} s"]
        for part, entries in record.items()
        for runtime, entry in entries.items()
    ]
    machines = sorted({entry.machine for entries in record.values() for entry in entries.values()})
    heads = ["part", "runtime", "date, UTC", "load average, before – after", "scale", "took"]
    return f"## When and where\n\n{'; '.join(machines)}.\n\n{_table(heads, rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
