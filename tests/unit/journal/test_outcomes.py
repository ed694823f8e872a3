"""Which error means what: what waits, what is tried again, what is looked at closer, and what needs a person."""

from __future__ import annotations

import asyncpg
import pytest

from hx_gateway.journal.outcomes import Outcome, outcome_of, reason_of
from hx_gateway.migrations.runner import SchemaTooNew

TABLE = {
    Outcome.POISON: "22P05 22P02 22003 22021 22001 22007 22008 22P04 23502 23514 54000 P0001 44000",
    Outcome.DUPLICATE: "23505",
    Outcome.RETRY: "40001 40P01 55P03",
    Outcome.OUTAGE: "08000 08003 08006 57P01 57P02 57P03 53100 53200 53300 25006 57014 28000 28P01 XX000 58030 XX001",
    Outcome.DRIFT: "42P01 42703 42501 3F000 3D000 0A000 42804",
}
CASES = [(state, outcome) for outcome, states in TABLE.items() for state in states.split()]


@pytest.mark.parametrize(("state", "outcome"), CASES)
def test_a_state_has_its_outcome(state: str, outcome: Outcome) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "message with 42P01 in it"})
    assert outcome_of(error) is outcome
    assert reason_of(error) == state


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionRefusedError(), Outcome.OUTAGE),
        (TimeoutError(), Outcome.OUTAGE),
        (OSError(28, "full"), Outcome.OUTAGE),
        (asyncpg.InterfaceError("connection is closed"), Outcome.OUTAGE),
        (asyncpg.exceptions.ConnectionDoesNotExistError("gone"), Outcome.OUTAGE),
        (asyncpg.DataError("value out of range"), Outcome.POISON),
        (ValueError("a bad record"), Outcome.POISON),
        (SchemaTooNew("9", "1"), Outcome.DRIFT),
        (LookupError("unknown kind"), Outcome.DRIFT),
        (TypeError("a bug"), Outcome.DRIFT),
        (MemoryError(), Outcome.OUTAGE),
        (RuntimeError("nobody knows"), Outcome.OUTAGE),
    ],
)
def test_an_error_without_a_state_has_its_outcome(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome
    assert "bad" not in reason_of(error)
