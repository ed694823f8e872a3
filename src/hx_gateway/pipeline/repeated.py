"""Bodies of requests that come again, byte for byte: read once, since reading them is a third of what a hit costs."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from hx_gateway.translate.openai import ModelRequest

MAX_BODY_BYTES = 16 * 1024
MAX_BYTES = 4 * 1024 * 1024
# About what an entry takes beside its texts.
OVERHEAD_BYTES = 2048


class Written(msgspec.Struct):
    """A body as it came, to the route ``route``, and what it says; ``canonical`` once somebody has compared it."""

    route: str
    data: bytes
    decoded: ModelRequest
    canonical: bytes | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return 2 * len(self.data) + len(self.canonical or b"") + OVERHEAD_BYTES


class RepeatedBodies:
    """Those that were answered from the cache: no others come again often enough. Bounded; the latest used stay.

    What a body says follows from its bytes and its route alone, whoever sends it. Nobody changes what is kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[str, bytes], Written] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, route: str, data: bytes) -> Written | None:
        """Return the body with these bytes, if it is known."""
        if not self._known or len(data) > MAX_BODY_BYTES:
            return None
        known = self._known.get((route, data))
        if known is not None:
            self._known.move_to_end((route, data))
        return known

    def keep(self, written: Written) -> None:
        """Know a body from now on."""
        key = (written.route, written.data)
        if len(written.data) > MAX_BODY_BYTES or written.size > self._max_bytes or key in self._known:
            return
        self._known[key] = written
        self.size += written.size
        while self.size > self._max_bytes:
            _, oldest = self._known.popitem(last=False)
            self.size -= oldest.size
