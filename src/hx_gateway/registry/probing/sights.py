"""When a service that was seen counts as one that is not seen any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from hx_gateway.registry.probing.rules import Rules

UNSEEN_INTERVALS = 3


def unseen_from(last_seen: datetime | None, rules: Rules) -> datetime | None:
    """Return when a service is stale unless it is seen before; ``None`` for one never seen, of which that is no news.

    The one place that knows how long a sight is good for.
    """
    return None if last_seen is None else last_seen + timedelta(seconds=UNSEEN_INTERVALS * rules.interval)


def is_stale(last_seen: datetime | None, rules: Rules, *, now: datetime, was: bool, frozen: bool) -> bool:
    """Return whether a service is stale. While ``frozen`` none becomes it, as none changes its state then."""
    ends = unseen_from(last_seen, rules)
    stale = ends is not None and now > ends
    return was and stale if frozen else stale
