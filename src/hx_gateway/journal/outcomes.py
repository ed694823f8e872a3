"""What a failed batch means: wait, try again, look closer, or stop and say so. By SQLSTATE, never by message."""

from __future__ import annotations

from enum import StrEnum

import asyncpg

from hx_gateway.migrations.runner import SchemaTooNew


class Outcome(StrEnum):
    """What to do about an error.

    ``OUTAGE``: the database is away or cannot take anything; the records wait and the breaker counts it.
    ``RETRY``: it would work at once. ``DUPLICATE``: a row is there already. ``POISON``: a row can never be stored; it
    is looked for and set aside. ``DRIFT``: tables or rights are not what they should be, for all rows alike; the
    stream pauses, because setting everything aside would help nobody.
    """

    OUTAGE = "outage"
    RETRY = "retry"
    DUPLICATE = "duplicate"
    POISON = "poison"
    DRIFT = "drift"


# By the longest prefix that is listed (PostgreSQL documentation, appendix A).
_BY_SQLSTATE = {
    "0A": Outcome.DRIFT,
    "22": Outcome.POISON,
    "22P03": Outcome.POISON,
    "22P04": Outcome.POISON,
    "23": Outcome.POISON,
    "23505": Outcome.DUPLICATE,
    "3D": Outcome.DRIFT,
    "3F": Outcome.DRIFT,
    "40001": Outcome.RETRY,
    "40P01": Outcome.RETRY,
    "42": Outcome.DRIFT,
    "44": Outcome.POISON,
    # A row over an index's size, among others.
    "54": Outcome.POISON,
    "55P03": Outcome.RETRY,
    # Raised by a trigger or rule that the operator put there.
    "P0": Outcome.POISON,
}


def outcome_of(error: BaseException) -> Outcome:
    """Return what ``error`` means. What is not known waits, as in an outage: nothing is lost by it."""
    if isinstance(error, asyncpg.PostgresError):
        state = sqlstate_of(error)
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or Outcome.OUTAGE
    if isinstance(error, asyncpg.InterfaceError):
        # The driver's own check of a value; its other errors are about the connection.
        return Outcome.POISON if isinstance(error, ValueError) else Outcome.OUTAGE
    if isinstance(error, ValueError):
        return Outcome.POISON
    if isinstance(error, SchemaTooNew | TypeError | LookupError | AttributeError | AssertionError):
        return Outcome.DRIFT
    return Outcome.OUTAGE


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE, or ``client`` for an error that the server did not raise."""
    return getattr(error, "sqlstate", None) or "client"


def reason_of(error: BaseException) -> str:
    """Return a short word for logs and metrics that holds no data: the SQLSTATE, or the error's class."""
    state = sqlstate_of(error)
    return type(error).__name__ if state == "client" else state
