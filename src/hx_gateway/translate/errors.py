"""What a translation reports when the server behind it refuses."""

from __future__ import annotations

from hx_gateway.services.upstream.base import UpstreamHead


class UpstreamStatusError(Exception):
    """An answer whose status is not 2xx: ``head`` and the whole ``body`` as they came."""

    def __init__(self, head: UpstreamHead, body: bytes) -> None:
        super().__init__(f"status {head.status}")
        self.head = head
        self.body = body


class UnreadableAnswer(Exception):
    """A 2xx answer that does not hold what it should."""
