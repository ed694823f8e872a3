"""What is undone when the rest does not work out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def undone_on_failure(undo: Callable[[], object]) -> Iterator[None]:
    """Call ``undo`` if the body is left by an exception, a cancellation too, which then goes on its way."""
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()
