"""The suites of the upstream protocol run on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.contract.upstream_conformance import UpstreamConformance
from tests.contract.upstream_ending import EndingConformance, EndingInEachPhase
from tests.contract.upstream_wire import WireConformance

_SUITES = (UpstreamConformance, EndingConformance, EndingInEachPhase, WireConformance)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the loops to run ``item`` on: the server's own is uvloop, where there is one."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    suite = getattr(item, "cls", None)
    if suite is not None and issubclass(suite, _SUITES):
        loops["uvloop"] = uvloop.new_event_loop
    return loops
