"""How long to wait before the next try: longer after each failure, never past a limit, and never all at once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Literal

Jitter = Literal["full", "equal"]


class Backoff:
    """Waits whose ceiling starts at ``first`` seconds and grows by ``factor`` up to ``most``; each is cut by chance.

    ``equal`` draws from the upper half of what the ceiling allows, so that a loop never runs hot. ``full`` draws from
    all of it, down to 0, which spreads many clients best
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). ``draw`` returns a number from 0 to
    below 1. One object a loop of tries; raises ``ValueError`` that names a wrong argument.
    """

    def __init__(
        self,
        *,
        first: float = 0.1,
        most: float = 30.0,
        factor: float = 2.0,
        jitter: Jitter = "equal",
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < first < math.inf:
            raise ValueError(f"first must be a finite number of seconds above 0, not {first!r}")
        if not first <= most < math.inf:
            raise ValueError(f"most must be a finite number of seconds and at least first, not {most!r}")
        if not 1 <= factor < math.inf:
            raise ValueError(f"factor must be a finite number and at least 1, not {factor!r}")
        if jitter not in ("full", "equal"):
            raise ValueError(f"jitter must be 'full' or 'equal', not {jitter!r}")
        self._first = first
        self._most = most
        self._factor = factor
        self._floor_share = 0.5 if jitter == "equal" else 0.0
        self._draw = draw
        self._ceiling = first

    def next(self) -> float:
        """Return the seconds to wait now, and let the next wait be longer."""
        ceiling = self._ceiling
        self._ceiling = min(self._most, ceiling * self._factor)
        return ceiling * (self._floor_share + (1 - self._floor_share) * self._draw())

    def reset(self) -> None:
        """Start over from ``first``: something worked."""
        self._ceiling = self._first
