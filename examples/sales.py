"""Four years of orders: revenue a month, its growth, and what is left when the season is taken out of it."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.dates import DateFormatter, MonthLocator
from matplotlib.ticker import FuncFormatter, MultipleLocator
from statsmodels.tsa.seasonal import seasonal_decompose

DATA = "/mnt/data"
INK, BLUE, ORANGE, PALE = "#22303c", "#1f6f8b", "#e07a3f", "#c9dbe2"

orders = pd.read_csv(f"{DATA}/sales.csv", parse_dates=["date"])
gaps = orders.isna().sum()
print(f"{len(orders):,} orders from {orders['date'].min():%d %B %Y} to {orders['date'].max():%d %B %Y}")
print("Missing: " + ", ".join(f"{count} {name}" for name, count in gaps[gaps > 0].items()))

# A revenue that nobody wrote down follows from the rest of its row.
computed = orders["units"] * orders["unit_price"] * (1 - orders["discount"].fillna(0))
orders["revenue"] = orders["revenue"].fillna(computed)

monthly = orders.set_index("date")["revenue"].resample("MS").sum()
parts = seasonal_decompose(monthly, model="multiplicative", period=12, extrapolate_trend=6)
adjusted = monthly / parts.seasonal

table = pd.DataFrame(
    {
        "orders": orders.set_index("date")["revenue"].resample("MS").size(),
        "revenue": monthly,
        "on the year": monthly.pct_change(12) * 100,
        "adjusted": adjusted,
        "on the month": adjusted.pct_change() * 100,
    }
)
shown = table.tail(12).rename_axis(None)
shown.index = shown.index.strftime("%b %Y")
money, percent = "{:,.0f}".format, "{:+.1f} %".format
formats = {"revenue": money, "adjusted": money, "on the year": percent, "on the month": percent}
print("\nThe last twelve months (EUR; adjusted: without the season)\n")
print(shown.to_string(formatters=formats))

years = monthly.groupby(monthly.index.year).sum()
print("\nThe years\n")
for year, growth in years.pct_change().items():
    print(f"{year}  {years[year]:>10,.0f}" + ("" if pd.isna(growth) else f"  {growth:+6.1%}"))

season = parts.seasonal.iloc[:12]
season.index = season.index.strftime("%B")
best, worst = season.idxmax(), season.idxmin()
print(f"\nStrongest month: {best} ({season[best] - 1:+.0%}), weakest: {worst} ({season[worst] - 1:+.0%})")

plt.rcParams.update({"font.size": 10, "text.color": INK, "xtick.color": INK, "ytick.color": INK})
figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 7.2), height_ratios=(5, 3), layout="constrained")
figure.get_layout_engine().set(hspace=0.07, h_pad=0.12, w_pad=0.12)
figure.suptitle(
    f"Revenue grew {years.iloc[-1] / years.iloc[0] - 1:.0%} in three years",
    x=0.012, ha="left", fontsize=17, fontweight="bold",
)  # fmt: skip

top.bar(monthly.index, monthly, width=24, color=PALE, label="Revenue of the month")
top.plot(adjusted.index, adjusted, color=BLUE, linewidth=1.6, label="Without the season")
top.plot(parts.trend.index, parts.trend, color=ORANGE, linewidth=2.6, label="Trend")
top.set_title("Thousand EUR a month", loc="left", fontsize=10.5)
top.xaxis.set_major_locator(MonthLocator(bymonth=(1, 7)))
top.xaxis.set_major_formatter(DateFormatter("%b %Y"))
top.yaxis.set_major_locator(MultipleLocator(5000))
top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:.0f}"))
top.legend(frameon=False, ncols=3, loc="upper left", borderaxespad=0.2)
top.set_ylim(0, monthly.max() * 1.16)
top.set_xlim(monthly.index[0] - pd.Timedelta(days=20), monthly.index[-1] + pd.Timedelta(days=20))

effect = (season - 1) * 100
bottom.bar([name[:3] for name in effect.index], effect, width=0.62, color=[BLUE if e >= 0 else ORANGE for e in effect])
for position, value in enumerate(effect):
    bottom.annotate(
        f"{value:+.0f}", (position, value), xytext=(0, 4 if value >= 0 else -4), textcoords="offset points",
        ha="center", va="bottom" if value >= 0 else "top", fontsize=9,
    )  # fmt: skip
bottom.axhline(0, color=INK, linewidth=0.8)
bottom.set_title("The season: per cent above or below the trend", loc="left", fontsize=10.5)
bottom.set_yticks([])
bottom.margins(x=0.015, y=0.22)

for axes in (top, bottom):
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
bottom.spines["bottom"].set_visible(False)
top.grid(axis="y", color="#e3e8eb", linewidth=0.8)
top.set_axisbelow(True)

figure.savefig(f"{DATA}/sales.png", dpi=150)
plt.close(figure)
print("\nChart: sales.png")
