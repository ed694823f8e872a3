"""What OTLP/HTTP asks of bodies: which encoding, how compressed, and how the answers look.

Rules: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import zlib
from enum import StrEnum

import msgspec
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from hx_gateway.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia

# The default the specification recommends; it counts after decompression.
MAX_BODY_BYTES = 64 * 1024 * 1024
# Inputs are fed in windows, so that what follows a gzip member is copied once, not once a member.
WINDOW_BYTES = 64 * 1024
# A body of 64 MiB in the 64 KiB blocks of bgzip has 1,025.
MAX_GZIP_MEMBERS = 4_096
MAX_MESSAGE_CHARS = 2_000

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_FORMATS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_ACCEPTED_ENCODINGS = {"accept-encoding": "gzip, deflate, identity"}
# The mapping that google/rpc/code.proto gives, and what lies nearest for the others.
_RPC_CODES = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    408: code_pb2.DEADLINE_EXCEEDED,
    409: code_pb2.ABORTED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    415: code_pb2.INVALID_ARGUMENT,
    429: code_pb2.RESOURCE_EXHAUSTED,
    499: code_pb2.CANCELLED,
    500: code_pb2.INTERNAL,
    501: code_pb2.UNIMPLEMENTED,
    502: code_pb2.UNAVAILABLE,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}


class OtlpEncoding(StrEnum):
    """How a request is written, and therefore its response. The value is the media type."""

    PROTOBUF = "application/x-protobuf"
    JSON = "application/json"


def encoding_of(content_type: str | None) -> OtlpEncoding:
    """Return what a ``content-type`` names, parameters ignored. Raises ``UnsupportedMedia`` for anything else."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    try:
        return OtlpEncoding(media_type)
    except ValueError:
        accepted = " or ".join(OtlpEncoding)
        raise UnsupportedMedia(
            f"The content-type {media_type[:64]!r} is not read here: send {accepted}.", param="content-type"
        ) from None


def inflate(body: bytes, content_encoding: str | None, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return ``body`` without its ``content-encoding``: none, ``identity``, ``gzip`` or ``deflate`` (zlib).

    Never holds much more than ``limit`` bytes of output. Raises ``BodyTooLarge`` for more than that,
    ``InvalidRequest`` for a stream that is broken, cut short or followed by something else, and
    ``UnsupportedMedia`` for another encoding or several.
    """
    name = (content_encoding or "").strip().lower()
    if name in ("", "identity"):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    if name not in _FORMATS:
        raise UnsupportedMedia(
            f"The content-encoding {name[:64]!r} is not read here: send gzip, deflate or none.",
            param="content-encoding",
            headers=_ACCEPTED_ENCODINGS,
        )
    try:
        return _inflate(body, _FORMATS[name], limit)
    except zlib.error as error:
        raise _broken() from error


def _inflate(body: bytes, wbits: int, limit: int) -> bytes:
    view = memoryview(body)
    pieces: list[bytes] = []
    at = size = members = 0
    stream = zlib.decompressobj(wbits)
    while at < len(view):
        if stream.eof:
            members += 1
            if wbits != _GZIP or members == MAX_GZIP_MEMBERS:
                raise _broken()
            stream = zlib.decompressobj(wbits)
        window = view[at : at + WINDOW_BYTES]
        piece = stream.decompress(window, limit - size + 1)
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        at += len(window) - len(stream.unused_data)
    if not stream.eof:
        raise _broken()
    return b"".join(pieces)


def export_response(encoding: OtlpEncoding, rejected: int = 0, message: str = "") -> bytes:
    """Return an ``ExportTraceServiceResponse``, sent with status 200.

    Without arguments it is full success, ``partial_success`` unset. A ``message`` with nothing ``rejected`` is a
    warning. A client must not send again what was rejected.
    """
    message = message[:MAX_MESSAGE_CHARS]
    if encoding is OtlpEncoding.JSON:
        partial = {"rejectedSpans": str(rejected)} if rejected else {}
        if message:
            partial["errorMessage"] = message
        return msgspec.json.encode({"partialSuccess": partial} if partial else {})
    response = ExportTraceServiceResponse()
    if rejected or message:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return bytes(response.SerializeToString())


def status_response(encoding: OtlpEncoding, code: int, message: str) -> bytes:
    """Return the ``google.rpc.Status`` that is the body of every failure. ``code`` is one of google.rpc's."""
    message = message[:MAX_MESSAGE_CHARS]
    if encoding is OtlpEncoding.JSON:
        return msgspec.json.encode({"code": code, "message": message})
    return bytes(status_pb2.Status(code=code, message=message).SerializeToString())


def rpc_code(http_status: int) -> int:
    """Return google.rpc's code for the status of a failure."""
    other: int = code_pb2.INTERNAL if http_status >= 500 else code_pb2.FAILED_PRECONDITION
    return int(_RPC_CODES.get(http_status, other))


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes, counted without compression: send fewer spans.")


def _broken() -> InvalidRequest:
    return InvalidRequest("The body is not what its content-encoding says, or it was cut short.", param="body")
