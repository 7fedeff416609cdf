"""What a reply costs.

The prices are those of `genai-prices`, a data set of what vendors publish, kept up to date by its own releases: it is
upgraded like any package, and nothing is fetched while the server runs. A vendor is known by its address, so that a
server of one's own is never charged for under a vendor's price because its model has the same name. Where the price is
not known the cost is None, never 0; for a local server it can be set to 0.
"""

import functools
from decimal import Decimal

import genai_prices
from genai_prices.data_snapshot import get_snapshot

from sandbox.loop.catalogue import Prices
from sandbox.loop.messages import Usage

__all__ = ["Prices", "cost"]

_MTOK = 1_000_000


def cost(usage: Usage, model: str, address: str, override: Prices | None = None) -> float | None:
    """US dollars; None when the price is not known.

    model: as the upstream names it. address: the upstream's URL.
    """
    if override is not None:
        return _by(override, usage)
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    vendor = _vendor(address)
    if vendor is None:
        return None
    try:
        price: Decimal = genai_prices.calc_price(tokens, model, provider_id=vendor).total_price
    except (LookupError, ValueError):  # not listed; or an upstream that counts more cached tokens than there were
        return None
    return float(price)


@functools.lru_cache(maxsize=256)
def _vendor(address: str) -> str | None:
    """Who publishes prices for an address.

    Asked for by itself, because the package remembers every model's name that it has looked for at an address without
    prices, and to a local server any name will do.
    """
    try:
        return get_snapshot().find_provider(None, None, address).id
    except LookupError:
        return None


def _by(prices: Prices, usage: Usage) -> float:
    read = prices.input if prices.cache_read is None else prices.cache_read
    write = prices.input if prices.cache_write is None else prices.cache_write
    fresh = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    dollars = (
        fresh * prices.input
        + usage.cache_read_tokens * read
        + usage.cache_write_tokens * write
        + usage.output_tokens * prices.output
    )
    return dollars / _MTOK
