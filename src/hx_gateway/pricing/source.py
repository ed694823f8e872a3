"""Finds the price of a model: one that was set by API, else the model file's, else the catalogue's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from hx_gateway.pricing.prices import Price, PriceList, flat

# Names that were asked for, those without a price included: a client may ask for any.
CACHED_MODELS = 1_024


class Catalogue(Protocol):
    """Knows what providers charge. Does no I/O."""

    def find(self, model: str, provider: str | None) -> PriceList | None:
        """Return the prices of ``model``, the name that its server knows, at ``provider`` (LiteLLM's name)."""
        ...


class NoCatalogue:
    """The twin that knows no price."""

    def find(self, model: str, provider: str | None) -> PriceList | None:
        """Return nothing."""
        return None


class PriceSource:
    """The prices of one worker, read once and kept as integers. For one event loop; nothing here waits.

    ``configured`` are the model file's. Prices set by API go first, then those, both by the gateway's name of a model;
    then the catalogue's, by provider and the name that the server knows.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        configured: Mapping[str, Price] = MappingProxyType({}),
    ) -> None:
        self._catalogue = catalogue
        self._configured = {model: flat(price) for model, price in configured.items()}
        self._overrides: dict[str, PriceList] = {}
        self._found: dict[tuple[str, str | None], PriceList | None] = {}

    @property
    def overrides(self) -> Mapping[str, Price]:
        """The prices that were set by API, by the model's name."""
        return {model: prices.bound for model, prices in self._overrides.items()}

    def prices_of(self, model: str, provider: str | None = None, *, served_as: str | None = None) -> PriceList | None:
        """Return all prices of ``model``, ``None`` where nobody knows one.

        ``model`` is the gateway's name for it, and ``served_as`` the one that its server knows, where that is another.
        """
        chosen = self._overrides.get(model) or self._configured.get(model)
        if chosen is not None:
            return chosen
        key = (served_as or model, provider)
        if key not in self._found:
            if len(self._found) >= CACHED_MODELS:
                del self._found[next(iter(self._found))]
            self._found[key] = self._catalogue.find(*key)
        return self._found[key]

    def price(self, model: str, provider: str | None = None, *, served_as: str | None = None) -> Price | None:
        """Return the highest price that a call of ``model`` may have, ``None`` where nobody knows one."""
        prices = self.prices_of(model, provider, served_as=served_as)
        return None if prices is None else prices.bound

    def set_override(self, model: str, price: Price | None) -> None:
        """Set the price of ``model``, whatever its provider; ``None`` gives it the one it has without."""
        if price is None:
            self._overrides.pop(model, None)
        else:
            self._overrides[model] = flat(price)

    def replace_overrides(self, overrides: Mapping[str, Price]) -> None:
        """Set exactly these prices."""
        self._overrides = {model: flat(price) for model, price in overrides.items()}
