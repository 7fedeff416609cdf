"""Make `sales.csv`: four years of orders of a shop that does not exist. The same seed gives the same bytes."""

import csv
import math
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

SEED = 20260101
FIRST, LAST = date(2022, 1, 1), date(2025, 12, 31)
ORDERS_A_DAY = 1.75
GROWTH_A_YEAR = 0.16
COLUMNS = (
    "order_id", "date", "region", "channel", "category", "product", "units", "unit_price", "discount", "revenue",
)  # fmt: skip

# Product, category, list price in euros, how often it is ordered, and the day of the year on which it sells best.
PRODUCTS = (
    ("Espresso machine", "Kitchen", 349.00, 5, 345),
    ("Burr grinder", "Kitchen", 129.00, 8, 345),
    ("Moka pot", "Kitchen", 34.90, 14, 340),
    ("Trekking backpack", "Outdoor", 119.00, 9, 170),
    ("Two-person tent", "Outdoor", 239.00, 6, 175),
    ("Camping stove", "Outdoor", 54.50, 10, 180),
    ("Desk lamp", "Office", 64.00, 11, 275),
    ("Ergonomic chair", "Office", 289.00, 6, 20),
    ("Notebook, pack of 5", "Office", 18.90, 18, 255),
)
REGIONS = {"North": 30, "South": 24, "East": 19, "West": 27}
CHANNELS = {"Web": 52, "Store": 30, "Partner": 18}
DISCOUNTS = {"0.00": 64, "0.05": 16, "0.10": 12, "0.15": 5, "0.25": 3}
WEEKDAYS = (1.05, 0.95, 0.95, 1.0, 1.2, 1.25, 0.6)


def season(day: date, best: int) -> float:
    """How much more than usual sells on `day`, for something that sells best on day `best` of the year."""
    distance = (day.timetuple().tm_yday - best) / 365.25 * math.tau
    return math.exp(0.75 * math.cos(distance)) / 1.15


def demand(day: date) -> float:
    """Orders to expect on `day`: growth, the weekday, the year's rhythm, and the weeks before Christmas."""
    years = (day - FIRST).days / 365.25
    rush = 1.7 if (day.month, day.day) >= (11, 20) and (day.month, day.day) <= (12, 20) else 1.0
    rhythm = 1 + 0.12 * math.cos((day.timetuple().tm_yday - 170) / 365.25 * math.tau)
    return ORDERS_A_DAY * math.pow(1 + GROWTH_A_YEAR, years) * WEEKDAYS[day.weekday()] * rhythm * rush


def pick(weights: dict[str, int], chance: random.Random) -> str:
    """One key, as often as its weight says."""
    return chance.choices(list(weights), list(weights.values()))[0]


def order(day: date, chance: random.Random) -> list[object]:
    """The fields of one order after its number. Every so often a clerk forgot one."""
    likely = [often * season(day, best) for _, _, _, often, best in PRODUCTS]
    product, category, price, _, _ = chance.choices(PRODUCTS, likely)[0]
    price = round(price * 1.035 ** (day.year - FIRST.year), 2)
    units = min(1 + int(chance.expovariate(0.9 if price < 70 else 2.2)), 12)
    discount = pick(DISCOUNTS, chance)
    revenue = f"{units * price * (1 - float(discount)):.2f}"
    shown: list[object] = [day, pick(REGIONS, chance), pick(CHANNELS, chance), category, product, units, f"{price:.2f}"]
    shown += [discount, revenue]
    for field, how_often in ((1, 0.006), (2, 0.01), (7, 0.015), (8, 0.008)):
        if chance.random() < how_often:
            shown[field] = ""
    return shown


def orders(chance: random.Random) -> Iterator[list[object]]:
    """All orders, in the order in which they came."""
    number = 100_000
    for past in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=past)
        expected = demand(day) * chance.lognormvariate(0, 0.35)
        for _ in range(int(expected + chance.random())):
            number += chance.randint(1, 3)
            yield [f"SO-{number}", *order(day, chance)]


def main() -> None:
    """Write the file next to this script."""
    path = Path(__file__).with_name("sales.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(orders(random.Random(SEED)))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
