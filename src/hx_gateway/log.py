"""How the program logs: one JSON object a line, or aligned text on a terminal; never a secret."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer

SECRET_KEYS = frozenset(
    {"authorization", "api_key", "key", "password", "secret", "token", "pg_url", "redis_url", "dsn", "url"}
)
MASK = "[hidden]"
MAX_VALUE_LENGTH = 2000

EventDict = MutableMapping[str, Any]


def configure_logging(*, level: str, style: Literal["auto", "json", "console"], stream: BinaryIO | None = None) -> None:
    """Set structlog and the standard library's logging up to write to ``stream`` (standard error)."""
    out = stream if stream is not None else sys.stderr.buffer
    console = style == "console" or (style == "auto" and out.isatty())
    shared: list[structlog.typing.Processor] = [structlog.stdlib.add_log_level, _add_time, hide_secrets]
    if console:
        last: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=out.isatty()),
            _encode,
        ]
    else:
        # Without the frames' variables: they hold keys, prompts and bodies.
        traceback = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        last = [traceback, render_json]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(level)


def line_writer(
    *, level: str, style: Literal["auto", "json", "console"], stream: BinaryIO | None = None
) -> Callable[[EventDict], None] | None:
    """Return what writes an event as one line of JSON, past structlog's processors; in a running loop, a turn at once.

    ``None`` where lines are for people or the level leaves them out. The events hold nothing secret: see to it.
    """
    out = stream if stream is not None else sys.stderr.buffer
    if style == "console" or (style == "auto" and out.isatty()):
        return None
    encode = msgspec.json.Encoder(enc_hook=str).encode
    lines: list[bytes] = []

    def write(event: EventDict) -> None:
        if level in ("WARNING", "ERROR") and event["level"] == "info":
            return
        event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        if not lines:
            asyncio.get_running_loop().call_soon(flush)
        lines.append(encode(event) + b"\n")

    def flush() -> None:
        together = b"".join(lines)
        lines.clear()
        out.write(together)
        out.flush()

    return write


def hide_secrets(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Mask values whose key names a secret, and cut those that are too long for a line."""
    for key, value in event.items():
        if key in SECRET_KEYS:
            event[key] = MASK
        elif isinstance(value, str) and len(value) > MAX_VALUE_LENGTH:
            event[key] = f"{value[:MAX_VALUE_LENGTH]}…"
    return event


def render_json(_logger: object, _method: str, event: EventDict) -> bytes:
    """Return one line of JSON: control characters are escaped, so one event is one line."""
    return msgspec.json.encode(event, enc_hook=str)


def _add_time(_logger: object, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    return event


def _encode(_logger: object, _method: str, event: str | EventDict) -> bytes:
    return str(event).encode("utf-8", "backslashreplace")


class _ToStructlog(logging.Handler):
    """Hands records of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log ``record`` under its logger's name."""
        logger = structlog.get_logger().bind(logger=record.name)
        logger.log(max(record.levelno, logging.DEBUG), record.getMessage(), exc_info=record.exc_info)


def _route_standard_logging(level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "aiohttp"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.error").setLevel(max(logging.getLevelName(level), logging.WARNING))
