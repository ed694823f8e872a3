"""Slows down whoever tries keys: after many that were wrong, the next wrong ones from there are told to wait."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hx_gateway.errors import HXError

MAX_FAILURES = 100
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 10_000
# Whoever has one address of version 6 has the rest of its network, too.
_NETWORK_BITS = 64


class TooManyFailures(HXError):
    """Too many wrong keys came from one address. A right one from there is let in all the same."""

    status = 429
    code = "too_many_failures"
    type = "rate_limit_error"


@dataclass(slots=True)
class _Window:
    began: float
    failures: int = 0


class FailureThrottle:
    """Counts failures by address, in a table of bounded size: whoever is not seen for longest is forgotten first."""

    def __init__(
        self,
        *,
        max_failures: int = MAX_FAILURES,
        window_seconds: float = WINDOW_SECONDS,
        max_addresses: int = MAX_ADDRESSES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_failures = max_failures
        self._window_seconds = window_seconds
        self._max_addresses = max_addresses
        self._monotonic = monotonic
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def failed(self, address: str) -> None:
        """Count a failure of ``address``. Raises :class:`TooManyFailures` for one too many in this minute."""
        now = self._monotonic()
        place = _place(address)
        window = self._windows.get(place)
        if window is None or now - window.began >= self._window_seconds:
            window = self._windows[place] = _Window(now)
        self._windows.move_to_end(place)
        if len(self._windows) > self._max_addresses:
            self._windows.popitem(last=False)
        window.failures += 1
        if window.failures > self._max_failures:
            wait = max(1, math.ceil(window.began + self._window_seconds - now))
            raise TooManyFailures(
                f"Too many API keys from this address were not valid: wait {wait} seconds before the next try.",
                headers={"retry-after": str(wait)},
            )


def _place(address: str) -> str:
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _NETWORK_BITS), strict=False).network_address)
