"""Why a change of the directory is refused, beside the errors that everybody raises."""

from __future__ import annotations

from hx_gateway.errors import Forbidden, HXError, InvalidRequest, NotFound

MAX_SHOWN_CHARS = 64


class Conflict(HXError):
    """It does not go together with what is there: ``already_exists``, ``idempotency_conflict`` and the like."""

    status = 409
    code = "already_exists"
    type = "invalid_request_error"


class InvalidField(InvalidRequest):
    """A field that reads well and breaks a rule all the same."""

    status = 422


class ExceedsGrantor(Forbidden):
    """Somebody wants to give what it does not have itself."""

    code = "exceeds_grantor"


def no_such(kind: str, object_id: str, *, param: str = "id") -> NotFound:
    """Return the one answer to whoever names what is not there, was deleted, or is another tenant's."""
    return NotFound(f"There is no {kind} {object_id[:MAX_SHOWN_CHARS]!r}.", param=param)
