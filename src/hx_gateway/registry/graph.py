"""Paths through dependencies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from uuid import UUID


def path_between(edges: Mapping[UUID, Iterable[UUID]], start: UUID, end: UUID) -> list[UUID] | None:
    """Return a shortest path from ``start`` to ``end`` with both of them, ``None`` where there is none.

    ``edges`` holds for each id those that it depends on.
    """
    reached_from: dict[UUID, UUID | None] = {start: None}
    waiting = deque([start])
    while waiting and end not in reached_from:
        here = waiting.popleft()
        for there in edges.get(here, ()):
            if there not in reached_from:
                reached_from[there] = here
                waiting.append(there)
    if end not in reached_from:
        return None
    path, step = [end], reached_from[end]
    while step is not None:
        path.append(step)
        step = reached_from[step]
    return path[::-1]
