"""All that the registry asks outside leaves through one guard, whatever is read of an answer."""

from __future__ import annotations

import pytest

from hx_gateway.registering import Registering
from hx_gateway.services.database import DatabaseManager
from hx_gateway.services.egress import guard
from hx_gateway.services.egress.resolver import SystemResolver
from hx_gateway.settings import Settings
from hx_gateway.telemetry import Metrics


def test_names_are_looked_up_in_one_place_for_probes_and_for_other_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[SystemResolver]()

    def one() -> SystemResolver:
        made.append(SystemResolver())
        return made[-1]

    monkeypatch.setattr(guard, "SystemResolver", one)
    database = DatabaseManager("postgresql://nobody@127.0.0.1:1/none")
    Registering(Settings(), Metrics(), database, None, audit_key=b"k" * 32)
    assert len(made) == 1
    made[0].close()
