"""What a client may see of an upstream's answer: which headers, which failures, in which words."""

from __future__ import annotations

import msgspec

from hx_gateway.errors import HXError, UpstreamFailed, UpstreamTimedOut
from hx_gateway.pipeline.context import Reply
from hx_gateway.services.upstream.base import (
    Deployment,
    UpstreamError,
    UpstreamHead,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTlsError,
)

MAX_RETRY_AFTER_SECONDS = 60
MAX_ERROR_BODY_BYTES = 64 * 1024
REDACTED = b"[redacted]"

# Everything else stays behind: cookies, locations, server names and connection headers are the upstream's own.
_PASSED = frozenset({"content-type", "content-encoding", "cache-control", "retry-after", "retry-after-ms"})
_PASSED_PREFIXES = ("openai-", "llm_provider-")


class UpstreamRateLimited(HXError):
    """The upstream's own limit; worth a retry after the time it names."""

    status = 429
    code = "upstream_rate_limited"
    type = "rate_limit_error"


class UpstreamOverloaded(HXError):
    """The upstream says that it is overloaded."""

    status = 503
    code = "upstream_overloaded"
    type = "upstream_error"


def client_headers(head: UpstreamHead) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that go on to the client; the first of each name."""
    passed: dict[str, str] = {}
    for name, value in head.headers:
        if name in _PASSED or name.startswith(_PASSED_PREFIXES):
            passed.setdefault(name, value)
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in passed.items()]


def answer_for_failure(failure: UpstreamError) -> HXError:
    """Return the error for a call that failed below HTTP.

    ``x-should-retry: false`` once the request went out: whoever received it may bill for it.
    """
    retry = None if failure.facts.bytes_written == 0 else False
    if isinstance(failure, UpstreamTimeout):
        waited = "accept a connection" if failure.phase is UpstreamPhase.CONNECT else "answer"
        return UpstreamTimedOut(f"The model's server did not {waited} in time.", should_retry=retry)
    if isinstance(failure, UpstreamRefused):
        return UpstreamFailed("The model's server could not be reached.", code="upstream_unreachable")
    if isinstance(failure, UpstreamTlsError):
        return UpstreamFailed("The model's server has no valid certificate.", code="upstream_tls_error")
    if isinstance(failure, UpstreamProtocolError):
        return UpstreamFailed(
            "The model's server sent something that is not a valid answer.",
            code="upstream_protocol_error",
            should_retry=retry,
        )
    return UpstreamFailed("The model's server closed the connection before the answer ended.", should_retry=retry)


def answer_for_status(head: UpstreamHead, body: bytes, deployment: Deployment) -> Reply | HXError:
    """Return what a client gets for a status that is not 2xx.

    A refusal that blames the request goes on as it came, without our credential; everything else is told in our
    words. The upstream's 401 and 403 speak of the gateway's credential: a client must not read them as its own.
    """
    status = head.status
    if status == 429:
        return UpstreamRateLimited("The model's server limits its rate.", headers=_retry_headers(head))
    if status in (401, 403, 407):
        return UpstreamFailed("The model's server refused the gateway's credential.", code="upstream_auth_failed")
    if status in (408, 504):
        return UpstreamTimedOut("The model's server timed out.")
    if status in (503, 529):
        return UpstreamOverloaded("The model's server is overloaded.", headers=_retry_headers(head))
    if status >= 500:
        return UpstreamFailed(f"The model's server failed with status {status}.", headers=_retry_headers(head))
    if status < 400:
        return UpstreamFailed(f"The model's server answered with status {status}.", code="upstream_protocol_error")
    if not _is_openai_error(body):
        return UpstreamRefusal(status)
    return Reply(status, client_headers(head), redact(body, deployment))


class UpstreamRefusal(HXError):
    """A 4xx of the upstream without a readable reason."""

    code = "upstream_refused"
    type = "invalid_request_error"

    def __init__(self, status: int) -> None:
        super().__init__(f"The model's server refused the request with status {status}.")
        self.status = status


def redact(body: bytes, deployment: Deployment) -> bytes:
    """Return ``body`` without the deployment's credentials, as they are and as JSON has them, should it repeat them."""
    for secret in (deployment.api_key, *deployment.headers.values()):
        if secret:
            for form in {secret.encode(), msgspec.json.encode(secret)[1:-1]}:
                body = body.replace(form, REDACTED)
    return body


def _is_openai_error(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get("error"), msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _retry_headers(head: UpstreamHead) -> dict[str, str]:
    headers = {}
    for name, largest in (
        ("retry-after", MAX_RETRY_AFTER_SECONDS),
        ("retry-after-ms", MAX_RETRY_AFTER_SECONDS * 1000),
    ):
        value = head.get(name)
        if value is not None and value.isascii() and value.isdigit():
            headers[name] = str(min(int(value), largest))
    return headers
