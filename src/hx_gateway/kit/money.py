"""Money: decimals at the edge, whole nano-dollars inside."""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation

NANO_USD = 1_000_000_000
# The most that a ledger counts exactly: Redis counts in doubles.
MAX_USD = 9_000_000
MAX_DECIMALS = 9
# Longer ones are no amount of money; a bound on what is parsed.
MAX_TEXT_CHARS = 64

_DECIMALS = Decimal(1).scaleb(-MAX_DECIMALS)
# Digits enough for every text that is read, so that none of them is rounded away before it is looked at.
_EXACT = Context(prec=2 * MAX_TEXT_CHARS)


def usd_to_nano(value: int | float | str | Decimal) -> int:
    """Return dollars as whole nano-dollars, exactly.

    ``value`` is 0 to 9,000,000 with at most 9 decimals. A ``float`` means the shortest decimal that it is written as:
    0.1 is ten cents. Raises ``ValueError`` that names the rule.
    """
    amount = _decimal(value)
    if not amount.is_finite():
        raise ValueError(f"must be a finite amount of dollars, not {_shown(value)}")
    if not 0 <= amount <= MAX_USD:
        raise ValueError(f"must be between 0 and {MAX_USD:,} dollars, not {_shown(value)}")
    nano = amount.scaleb(MAX_DECIMALS, _EXACT)
    if nano != nano.to_integral_value(context=_EXACT):
        raise ValueError(f"must have at most {MAX_DECIMALS} decimals, not {_shown(value)}")
    return int(nano)


def nano_to_usd(nano: int) -> float:
    """Return nano-dollars as a number for JSON, printed with at most 9 decimals.

    Exact up to 2**23 dollars, 8,388,608: from there on doubles are further apart than nano-dollars. Use
    :func:`usd_text` for exact digits, :func:`nano_to_decimal` for anything that is calculated with.
    """
    return nano / NANO_USD


def nano_to_decimal(nano: int) -> Decimal:
    """Return nano-dollars as dollars, exactly, whatever the size."""
    return Decimal(nano) * _DECIMALS


def usd_text(nano: int) -> str:
    """Return nano-dollars as dollars in plain digits: ``0.000000001``, ``12``, ``-0.5``; never in powers of ten."""
    sign, rest = ("-", -nano) if nano < 0 else ("", nano)
    whole, part = divmod(rest, NANO_USD)
    decimals = f"{part:0{MAX_DECIMALS}d}".rstrip("0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def _decimal(value: int | float | str | Decimal) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"must be a number or a text with one, not {_shown(value)}")
    text = str(value)
    # int() and Decimal() also read digits of other scripts and underscores, which nobody means as money.
    if len(text) > MAX_TEXT_CHARS or not text.isascii() or "_" in text or text != text.strip():
        raise ValueError(f"must be a plain decimal of at most {MAX_TEXT_CHARS} characters, not {_shown(value)}")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"must be a number or a text with one, not {_shown(value)}") from None


def _shown(value: object) -> str:
    return f"{value!r:.{MAX_TEXT_CHARS}}" if isinstance(value, str) else f"{value!s:.{MAX_TEXT_CHARS}}"
