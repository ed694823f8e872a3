"""Prices that stand in the model file, in LiteLLM's words."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from hx_gateway.pricing.prices import Price, pico_per_token

SOURCE = "config"
INPUT = "input_cost_per_token"
OUTPUT = "output_cost_per_token"
CACHED = "cache_read_input_token_cost"
_MILLION = 1_000_000


def configured_prices(entries: Mapping[str, Mapping[str, object]], version: str) -> dict[str, Price]:
    """Return the prices of the models that have both :data:`INPUT` and :data:`OUTPUT`, or one of them and the other 0.

    ``entries`` has the fields of ``litellm_params`` and ``model_info`` by the model's name; fields that are no price
    are left alone. Amounts are dollars a token, as numbers or text. Raises ``ValueError`` that names model and field.
    """
    found = {}
    for model, fields in entries.items():
        prices = {
            name: _pico(model, name, fields[name]) for name in (INPUT, OUTPUT, CACHED) if fields.get(name) is not None
        }
        if INPUT in prices or OUTPUT in prices:
            found[model] = Price(
                input_pico=prices.get(INPUT, 0),
                output_pico=prices.get(OUTPUT, 0),
                cached_input_pico=prices.get(CACHED),
                source=SOURCE,
                version=version,
            )
    return found


def _pico(model: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"{model}: {name} must be dollars a token, as 2.5e-06, not {value!r}")
    try:
        return pico_per_token(Decimal(str(value).strip()) * _MILLION)
    except InvalidOperation:
        raise ValueError(f"{model}: {name} must be dollars a token, as 2.5e-06, not {value!r}") from None
    except ValueError as error:
        raise ValueError(f"{model}: {name}, for a million tokens, {error}") from None
