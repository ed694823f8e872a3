"""Hybrid logging: each event to a file of JSON lines at once, and to the record."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from hx_gateway.observability.layer import DatabaseIntegrationLayer, get_database_layer

DEFAULT_FILE = "trace-events.jsonl"
MAX_FILE_BYTES = 64 * 1024**2


class TraceLogger:
    """Writes events to ``path`` and to ``layer``. A file over ``max_bytes`` is renamed to ``<name>.1``, replacing it.

    The file is for people with ``tail -f``; a disk that cannot take its line does not keep the event from the record.
    """

    def __init__(self, layer: DatabaseIntegrationLayer, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self.write_failures = 0
        self._layer = layer
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._encode = msgspec.json.Encoder(enc_hook=str).encode
        self._turn = asyncio.Lock()

    async def log_event(
        self,
        trace_id: str,
        event_type: str,
        level: str = "INFO",
        message: str | None = None,
        agent_name: str | None = None,
        task_id: str | None = None,
        **more: Any,
    ) -> None:
        """Write one event to both. The arguments are those of ``write_trace_event``, and so are the errors."""
        fields = {
            "trace_id": trace_id,
            "event_type": event_type,
            "level": level,
            "message": message,
            "agent_name": agent_name,
            "task_id": task_id,
            **more,
        }
        line = {name: value for name, value in fields.items() if value is not None}
        line.setdefault("timestamp", datetime.now(UTC))
        more.setdefault("timestamp", line["timestamp"])
        await self._layer.write_trace_event(trace_id, event_type, level, message, agent_name, task_id, **more)
        await self._write(line)

    async def _write(self, line: dict[str, Any]) -> None:
        async with self._turn:
            try:
                data = self._encode({"timestamp": line.pop("timestamp"), **line}) + b"\n"
                await asyncio.to_thread(self._append, data)
            except (OSError, UnicodeEncodeError):
                self.write_failures += 1

    def _append(self, data: bytes) -> None:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._descriptor, data)
        if os.fstat(self._descriptor).st_size > self._max_bytes:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._close_file()

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file; the layer is its owner's to shut down."""
        self._close_file()


_loggers: dict[int, TraceLogger] = {}


def get_trace_logger(path: Path | None = None) -> TraceLogger:
    """Return the process's logger over :func:`get_database_layer`'s layer.

    The file is ``path`` of the first call, else ``HX_TRACE_LOG``, else ``trace-events.jsonl`` beside the journal.
    """
    logger = _loggers.get(os.getpid())
    if logger is None:
        layer = get_database_layer()
        named = os.environ.get("HX_TRACE_LOG")
        chosen = path or (Path(named) if named else layer.config.journal_root / DEFAULT_FILE)
        _loggers.clear()
        logger = _loggers[os.getpid()] = TraceLogger(layer, chosen)
    return logger
