"""The body of an export request as spans, from either encoding."""

from __future__ import annotations

from hx_gateway.observability.otlp import wire_json, wire_protobuf
from hx_gateway.observability.otlp.encoding import OtlpEncoding
from hx_gateway.observability.otlp.model import Decoded, Rejection, Span, SpanEvent

__all__ = ["Decoded", "Rejection", "Span", "SpanEvent", "decode"]

_SNAKE_CASE = (b'"resource_spans"', b'"scope_spans"')
_SNAKE_CASE_WARNING = "The body holds no spans. OTLP's JSON has names in lowerCamelCase: resourceSpans, scopeSpans."


def decode(body: bytes, encoding: OtlpEncoding) -> Decoded:
    """Return the spans of an ``ExportTraceServiceRequest``, decompressed, and why others were not taken.

    A span that is wrong in itself is rejected alone: an id that is missing, all zero or of the wrong length, no
    start time, a field of the wrong type, a text that is not UTF-8. Unknown fields are ignored, as the
    specification demands; so a JSON span in snake_case is one without ids and is rejected, and a body that is
    snake_case from the top holds no span at all, which ``warning`` says.

    Raises ``InvalidRequest`` for a body that is no such request, and ``BodyTooLarge`` for one with more spans than
    are taken at once. Takes some 20 us a span: a large body belongs in a thread.
    """
    read = wire_json.read_spans if encoding is OtlpEncoding.JSON else wire_protobuf.read_spans
    spans: list[Span] = []
    rejected: list[Rejection] = []
    for found in read(body):
        if isinstance(found, Span):
            spans.append(found)
        else:
            rejected.append(found)
    suspect = encoding is OtlpEncoding.JSON and not spans and not rejected and any(map(body.__contains__, _SNAKE_CASE))
    return Decoded(spans, rejected, _SNAKE_CASE_WARNING if suspect else "")
