"""Logging: one line an event, and no secret in it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from hx_gateway.log import configure_logging


@pytest.fixture
def stream() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.BytesIO()
    configure_logging(level="INFO", style="json", stream=out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_whatever_it_holds(stream: io.BytesIO) -> None:
    structlog.get_logger().info("request", client='\n{"event":"forged"}\x1b[31m\u2028')
    (line,) = lines(stream)
    assert line["event"] == "request"
    assert line["level"] == "info"
    assert stream.getvalue().count(b"\n") == 1


def test_values_under_secret_names_are_masked_and_long_ones_cut(stream: io.BytesIO) -> None:
    structlog.get_logger().info("x", authorization="Bearer s3cret", password="s3cret", note="n" * 5000)
    assert b"s3cret" not in stream.getvalue()
    assert len(stream.getvalue()) < 2500


def test_debug_is_left_out_at_info(stream: io.BytesIO) -> None:
    structlog.get_logger().debug("noise")
    assert lines(stream) == []


def test_the_standard_librarys_records_come_out_the_same_way(stream: io.BytesIO) -> None:
    logging.getLogger("somebody.else").warning("it %s", "happened")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("it happened", "somebody.else", "warning")


def test_an_exception_is_told_in_its_line(stream: io.BytesIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines(stream)
    assert "ValueError" in str(line["exception"])
