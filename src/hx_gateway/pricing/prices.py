"""What a token costs, in whole pico-dollars, and what a call costs, rounded up once to nano-dollars."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Context, Decimal

PICO_PER_NANO = 1_000
PICO_USD = 10**12
# A dollar for a million tokens is a millionth of a dollar for one.
PICO_PER_USD_PER_MILLION = PICO_USD // 1_000_000
# A dollar a token: far above any price, and what keeps sums within 64 bits in the database.
MAX_PICO = PICO_USD
# Of dollars for a million tokens: a pico-dollar a token is the sixth.
MAX_DECIMALS = 6
# No digit of an amount is rounded away before it is looked at.
_EXACT = Context(prec=200)

Active = Callable[[datetime], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Pico-dollars a token. ``cached_input_pico`` is ``None`` where a cached token costs what another one does.

    ``source`` is ``override`` (set by API), ``config`` (the model file) or ``genai-prices``; ``version`` tells which
    of that source's, so that a charge can be explained later.
    """

    input_pico: int
    output_pico: int
    cached_input_pico: int | None = None
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Band:
    """The price of calls with more than ``above_tokens`` of input: it holds for all of their tokens."""

    above_tokens: int
    price: Price


@dataclass(frozen=True, slots=True)
class PricePeriod:
    """The bands of a time, the lowest first and from 0 on. ``active`` is ``None`` where it is always that time."""

    active: Active | None
    bands: tuple[Band, ...]


@dataclass(frozen=True, slots=True)
class PriceList:
    """All prices of a model: ``bound`` is the highest of them, whatever the hour and however long the input."""

    bound: Price
    periods: tuple[PricePeriod, ...]

    def at(self, moment: datetime, prompt_tokens: int) -> Price:
        """Return the price of a call. Of several periods the last one listed counts, of none the first."""
        chosen = self.periods[0]
        for period in reversed(self.periods):
            if period.active is None or period.active(moment):
                chosen = period
                break
        fitting = [band for band in chosen.bands if prompt_tokens > band.above_tokens]
        return (fitting[-1] if fitting else chosen.bands[0]).price


def cost_nano(price: Price, prompt: int, completion: int, cached: int = 0) -> int:
    """Return what a call costs in nano-dollars, rounded up once.

    ``cached`` is the part of ``prompt`` that was read from the provider's cache; more than all of it counts as all.
    Tokens below 0, which an upstream may report, count as none.
    """
    prompt, completion = max(prompt, 0), max(completion, 0)
    cached = min(max(cached, 0), prompt)
    cached_pico = price.input_pico if price.cached_input_pico is None else price.cached_input_pico
    pico = (prompt - cached) * price.input_pico + cached * cached_pico + completion * price.output_pico
    return -(-pico // PICO_PER_NANO)


def flat(price: Price) -> PriceList:
    """Return the list of a model with one price."""
    return PriceList(price, (PricePeriod(None, (Band(0, price),)),))


def highest(prices: Iterable[Price]) -> Price:
    """Return a price that is nowhere below any of ``prices``, of which there is at least one."""
    known = tuple(prices)
    cached = [price.input_pico if price.cached_input_pico is None else price.cached_input_pico for price in known]
    return Price(
        input_pico=max(price.input_pico for price in known),
        output_pico=max(price.output_pico for price in known),
        cached_input_pico=None if all(price.cached_input_pico is None for price in known) else max(cached),
        source=known[0].source,
        version=known[0].version,
    )


def pico_per_token(usd_per_million: Decimal) -> int:
    """Return dollars for a million tokens as pico-dollars a token, rounded up. Raises ``ValueError`` out of bounds."""
    if not usd_per_million.is_finite() or usd_per_million < 0:
        raise ValueError(f"must be a finite number of dollars, not below 0, not {usd_per_million}")
    if usd_per_million > MAX_PICO // PICO_PER_USD_PER_MILLION:
        raise ValueError(f"must be at most {MAX_PICO // PICO_PER_USD_PER_MILLION:,} dollars, not {usd_per_million}")
    return int((usd_per_million * PICO_PER_USD_PER_MILLION).to_integral_value(ROUND_CEILING))


def exact_pico_per_token(usd_per_million: Decimal) -> int:
    """Return the same for an amount that somebody sets: it may have no more decimals than a pico-dollar has."""
    pico = pico_per_token(usd_per_million)
    if usd_per_million.scaleb(MAX_DECIMALS, _EXACT) != pico:
        raise ValueError(f"must have at most {MAX_DECIMALS} decimals, not {usd_per_million}")
    return pico


def usd_per_million(pico: int) -> Decimal:
    """Return pico-dollars a token as dollars for a million tokens, exactly."""
    return Decimal(pico) / PICO_PER_USD_PER_MILLION
