"""The prices that the package genai-prices comes with; importing this module loads them, and costs 0.1 s and 40 MB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices

from hx_gateway.pricing.prices import Active, Band, Price, PriceList, PricePeriod, highest, pico_per_token

SOURCE = "genai-prices"
# A longer name is no provider's.
MAX_NAME_CHARS = 256
_Amount = Decimal | TieredPrices | None

# LiteLLM's names of providers where the package has others. It would find them by parts of their names too, but then
# also takes "custom_openai", which may be a server in one's own cellar, for OpenAI.
_OTHER_NAMES: Mapping[str, str] = {
    "fireworks_ai": "fireworks",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "xai": "x-ai",
}
# What a proxy serves is named by its model alone.
_PROXIES = frozenset({"litellm_proxy"})


class GenaiCatalogue:
    """List prices for text. The package's own downloads are never started: nothing here touches the network.

    Not in it: what is charged for writing to a cache, for audio, for searches and by the request. A model whose price
    depends on the time or on the length of the input has a list with all of them. The package remembers each name
    that it is asked for, without bound, so that it is only asked for its data here.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self._providers = get_snapshot().providers
        self._by_id = {provider.id: provider for provider in self._providers}
        self._now = now or datetime.now(UTC)

    @property
    def version(self) -> str:
        """The package's version."""
        return genai_prices.__version__

    def find(self, model: str, provider: str | None) -> PriceList | None:
        """Return the prices of ``model``; without ``provider`` its name must tell whose it is.

        What runs on a server of one's own (``hosted_vllm``, ``ollama``, ``openai_like`` and so on) has none.
        """
        if len(model) > MAX_NAME_CHARS:
            return None
        for place, name in self._places(model.lower(), provider):
            info = place.find_model(name, all_providers=self._providers)
            if info is not None:
                return self._compile(info)
        return None

    def _places(self, model: str, provider: str | None) -> Iterator[tuple[Provider, str]]:
        """Yield where the model may be, the likeliest first, and its name there."""
        if provider is not None and provider not in _PROXIES:
            named = self._by_id.get(_OTHER_NAMES.get(provider, provider))
            if named is not None:
                yield named, model
            return
        prefix, _, rest = model.partition("/")
        named = self._by_id.get(_OTHER_NAMES.get(prefix, prefix))
        if named is not None and rest:
            yield named, rest
        for place in self._providers:
            if place.model_match is not None and place.model_match.is_match(model):
                yield place, model
                return

    def _compile(self, info: ModelInfo) -> PriceList | None:
        if isinstance(info.prices, ModelPrice):
            periods = [PricePeriod(None, self._bands(info.prices))]
        else:
            prices = _still_possible(info.prices, self._now)
            periods = [PricePeriod(_active(price), self._bands(price.prices)) for price in prices]
        periods = [period for period in periods if period.bands]
        if not periods:
            return None
        return PriceList(highest(band.price for period in periods for band in period.bands), tuple(periods))

    def _bands(self, prices: ModelPrice) -> tuple[Band, ...]:
        amounts = (prices.input_mtok, prices.output_mtok, prices.cache_read_mtok)
        if amounts[0] is None and amounts[1] is None:
            return ()
        starts = {0, *(tier.start for amount in amounts if isinstance(amount, TieredPrices) for tier in amount.tiers)}
        return tuple(Band(start, self._price(amounts, start)) for start in sorted(starts))

    def _price(self, amounts: tuple[_Amount, _Amount, _Amount], start: int) -> Price:
        tokens_in, tokens_out, cached = (_of_band(amount, start) for amount in amounts)
        return Price(
            input_pico=tokens_in or 0,
            output_pico=tokens_out or 0,
            cached_input_pico=cached,
            source=SOURCE,
            version=self.version,
        )


def _still_possible(prices: Sequence[ConditionalPrice], now: datetime) -> list[ConditionalPrice]:
    """Leave out prices of the past: those before the last one that holds from now on, whatever the hour."""
    for index in range(len(prices) - 1, -1, -1):
        constraint = prices[index].constraint
        if constraint is None or (isinstance(constraint, StartDateConstraint) and constraint.active(now)):
            return list(prices[index:])
    return list(prices)


def _active(price: ConditionalPrice) -> Active | None:
    return None if price.constraint is None else price.constraint.active


def _of_band(amount: _Amount, start: int) -> int | None:
    """Return the pico-dollars a token in the band that begins above ``start`` tokens of input."""
    if not isinstance(amount, TieredPrices):
        return None if amount is None else pico_per_token(amount)
    reached = [tier.price for tier in amount.tiers if tier.start <= start]
    # A tier may begin at 0, and then the base is of nothing but an empty input.
    return pico_per_token(reached[-1] if reached and start else max([amount.base, *reached]))
