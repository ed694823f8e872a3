"""Turns of the event loop: what is done by all who came together costs each of them less."""

from __future__ import annotations

from collections.abc import Generator
from types import coroutine


@coroutine
def next_turn() -> Generator[None, None, None]:
    """Let those who arrived together do what this one did so far, before any of them goes on.

    A step of a request touches code and data that the next step throws out of the processor's caches: taken by all of
    them one after the other, it finds them there. Costs a turn of the loop. Figures: benchmarks/README.md.
    """
    yield
