"""The errors that may reach a client: a stable code, an HTTP status and a message that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class HXError(Exception):
    """Base of every error that is shown to a client.

    ``message`` is written for the caller: it never holds SQL, a stack trace, a credential or the host name of a
    dependency. ``headers`` are added to the response. ``should_retry`` becomes ``x-should-retry``, which the OpenAI
    clients obey before they look at the status. ``explanation`` is kept with the record of the refusal, for those who
    may read it later; the caller does not see it. ``details`` are for programs, the ``errors`` of problem details: each
    with a ``message`` and a ``location``, or with what else there is to say.
    """

    status = 500
    code = "internal_error"
    type = "server_error"
    details: Sequence[Mapping[str, Any]] = ()

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        should_retry: bool | None = None,
        explanation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.headers = dict(headers or {})
        self.should_retry = should_retry
        self.explanation = explanation


class InvalidRequest(HXError):
    """The request breaks a rule; ``param`` names the field."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidApiKey(HXError):
    """No key, or a key that whoever keeps the keys said is not one. Never raised when that one could not be asked."""

    status = 401
    code = "invalid_api_key"
    type = "invalid_request_error"


class Forbidden(HXError):
    """A known caller without the right."""

    status = 403
    code = "permission_denied"
    type = "permission_error"


class NotFound(HXError):
    """No such path or object, or one the caller must not know of."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class MethodNotAllowed(HXError):
    """The path exists, the method does not; ``allow`` becomes the ``allow`` header."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"

    def __init__(self, message: str, *, allow: Sequence[str]) -> None:
        super().__init__(message, headers={"allow": ", ".join(sorted(allow))})


class RequestTimeout(HXError):
    """The client was too slow to send its request."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class BodyTooLarge(HXError):
    """The body is over the route's limit."""

    status = 413
    code = "body_too_large"
    type = "invalid_request_error"


class UnsupportedMedia(HXError):
    """A content encoding or type that is not read here."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"


class NotImplementedHere(HXError):
    """Known, but not built or not supported by this deployment."""

    status = 501
    code = "not_built"


class UpstreamFailed(HXError):
    """The model's server failed or answered with something that is not HTTP or not what was asked for."""

    status = 502
    code = "upstream_error"
    type = "upstream_error"


class UpstreamTimedOut(HXError):
    """The model's server did not answer in time."""

    status = 504
    code = "upstream_timeout"
    type = "upstream_error"


class Unavailable(HXError):
    """A dependency is away, or the gateway is overloaded or about to stop; worth a retry."""

    status = 503
    code = "dependency_unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_seconds: int = 2,
    ) -> None:
        super().__init__(message, code=code, headers={"retry-after": str(retry_after_seconds)})
