"""Why a URL was not followed: a bounded reason for metrics and records, and a message for whoever gave the URL."""

from __future__ import annotations

from enum import StrEnum


class EgressReason(StrEnum):
    """What stood in the way; safe as a label.

    ``DNS`` and ``ADDRESS`` have one message, and differ here only: who may tell them apart learns which names a
    private DNS knows.
    """

    URL = "url"
    SCHEME = "scheme"
    CREDENTIALS = "credentials"
    HOST = "host"
    PORT = "port"
    SOCKET_PATH = "socket_path"
    HEADER = "header"
    ADDRESS = "address"
    REDIRECT = "redirect"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"


_FAILURE_CLASSES = {
    EgressReason.DNS: "dns",
    EgressReason.CONNECT: "connect",
    EgressReason.TLS: "tls",
    EgressReason.TIMEOUT: "timeout",
    EgressReason.TOO_LARGE: "protocol",
    EgressReason.PROTOCOL: "protocol",
}


class EgressError(Exception):
    """Base of both. ``field`` is what the caller called the URL; ``message`` begins with it and says what to do.

    The message holds no address, no answer and nothing of the URL, which may carry a credential.
    """

    def __init__(self, reason: EgressReason, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.reason = reason
        self.field = field

    @property
    def message(self) -> str:
        """The text for whoever gave the URL."""
        return str(self)

    @property
    def failure_class(self) -> str:
        """One of ``dns``, ``connect``, ``tls``, ``timeout``, ``protocol`` and ``egress_denied``."""
        return _FAILURE_CLASSES.get(self.reason, "egress_denied")


class EgressDenied(EgressError):
    """A rule forbids it. But for ``REDIRECT``, nothing was connected to."""


class EgressFailed(EgressError):
    """It was allowed and did not work. ``status`` is that of a server which refused to upgrade to WebSocket."""

    def __init__(self, reason: EgressReason, field: str, rule: str, *, status: int | None = None) -> None:
        super().__init__(reason, field, rule)
        self.status = status
