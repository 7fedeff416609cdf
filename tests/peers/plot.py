"""The figures as a picture; run by the Python of our own image, which has matplotlib: plot.py RESULT.json OUT.svg"""

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "peers"  # the same figures make the same file
import matplotlib.pyplot as plt  # noqa: E402

PANELS = (
    ("fresh_ms", "fresh sandbox → printed 1, ms"),
    ("second_ms", "second call, ms"),
    ("chart_ms", "fresh + pandas + chart, ms"),
    ("rate_8", "fresh per second, 8 clients"),
)


def main(source: str, target: str) -> None:
    with open(source) as file:
        peers = json.load(file)["peers"]
    names = list(peers)[::-1]
    figure, axes = plt.subplots(2, 2, figsize=(11, 1.6 + 0.7 * len(names)), layout="constrained")
    for axis, (key, title) in zip(axes.flat, PANELS, strict=True):
        values = [peers[name][key] or 0 for name in names]
        colours = ["#2a6f97" if name == "sandbox" else "#a9b4c2" for name in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:,.3g}" if value else "–" for value in values], padding=3)
        axis.set_title(title, loc="left")
        if any(values):
            axis.set_xscale("log")
            axis.set_xlim(right=max(values) * 4)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
