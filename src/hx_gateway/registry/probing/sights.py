"""When a service that was seen counts as one that is not seen any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from hx_gateway.registry.probing.rules import Rules

UNSEEN_INTERVALS = 3


def unseen_from(last_seen: datetime | None, rules: Rules, ttl_until: datetime | None = None) -> datetime | None:
    """Return when a service is stale unless it is seen before; ``None`` for one never seen, of which that is no news.

    The one place that knows how long a sight is good for. ``ttl_until`` is how long its last heartbeat is.
    """
    if last_seen is None:
        return None
    seen_until = last_seen + timedelta(seconds=UNSEEN_INTERVALS * rules.interval)
    return seen_until if ttl_until is None else max(seen_until, ttl_until)


def is_stale(unseen: datetime | None, *, now: datetime, was: bool, frozen: bool) -> bool:
    """Return whether a service is stale from ``unseen`` on. While ``frozen`` none becomes it: no state changes then."""
    stale = unseen is not None and now > unseen
    return was and stale if frozen else stale
