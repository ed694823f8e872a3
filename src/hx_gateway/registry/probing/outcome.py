"""What one probe found out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from hx_gateway.db.models.registry_items import ERROR_CHARS
from hx_gateway.services.egress.errors import EgressError

_CREDENTIALS = re.compile(r"//[^/?#\s]*@")
_NOT_PRINTED = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]+")


class FailureClass(StrEnum):
    """Why a probe failed; safe as a label. Those of the egress guard have its names."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP_STATUS = "http_status"
    AUTH = "auth"
    NOT_MCP = "not_mcp"
    PROTOCOL = "protocol"
    CRASHED = "crashed"
    EGRESS_DENIED = "egress_denied"


class Verdict(StrEnum):
    """What follows for the service: it is well, it is not, nothing new, or there is no way to ask it.

    ``BEATING``: nobody asked, and its heartbeats are not overdue.
    """

    HEALTHY = "healthy"
    FAILED = "failed"
    UNDECIDED = "undecided"
    UNASKED = "unasked"
    BEATING = "beating"


class Level(StrEnum):
    """How far a probe came: something took the connection, or it answered as its protocol has it."""

    REACHABLE = "reachable"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOutcome:
    """What was found. ``reason`` is for people: at most 512 characters, none of them a server's own words.

    ``response_time_ms`` is from the first byte out to the answer that decided, with the connection. ``auth_required``:
    it answered, and wants a credential that the gateway does not have. ``retry_after_seconds`` is what it asked for.
    """

    verdict: Verdict
    failure_class: FailureClass | None = None
    reason: str | None = None
    response_time_ms: float | None = None
    auth_required: bool = False
    level: Level | None = None
    retry_after_seconds: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the service was found to be well."""
        return self.verdict is Verdict.HEALTHY


class Unanswered(Exception):
    """A service did not answer what it was asked; ``outcome`` says why."""

    def __init__(self, outcome: ProbeOutcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def healthy(level: Level, *, auth_required: bool = False) -> ProbeOutcome:
    """Return that a service is well."""
    return ProbeOutcome(verdict=Verdict.HEALTHY, level=level, auth_required=auth_required)


def failed(failure_class: FailureClass, reason: str, *, level: Level | None = None) -> ProbeOutcome:
    """Return that a service is not well, and why."""
    return ProbeOutcome(verdict=Verdict.FAILED, failure_class=failure_class, reason=redacted(reason), level=level)


def unasked(reason: str) -> ProbeOutcome:
    """Return that there is no way to ask, which says nothing about the service."""
    return ProbeOutcome(verdict=Verdict.UNASKED, reason=redacted(reason))


def busy(retry_after_seconds: float | None) -> ProbeOutcome:
    """Return that it answered, and wants to be asked less often."""
    reason = "answered with status 429: it is asked less often for a while"
    return ProbeOutcome(verdict=Verdict.UNDECIDED, reason=reason, retry_after_seconds=retry_after_seconds)


def from_egress(error: EgressError) -> ProbeOutcome:
    """Return what the guard's error means; its message holds no address and nothing of the URL."""
    return failed(FailureClass(error.failure_class), error.message)


def redacted(reason: str) -> str:
    """Return ``reason`` as it may be kept and shown: one line, without credentials of URLs, at most 512 characters."""
    text = _CREDENTIALS.sub("//***@", _NOT_PRINTED.sub(" ", reason)).strip()
    return text if len(text) <= ERROR_CHARS else text[: ERROR_CHARS - 1] + "…"
