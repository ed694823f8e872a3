"""Times as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hx_gateway.cli.moments import past_of, span_of


def test_a_span_is_told_from_what_is_none() -> None:
    assert [span_of(text) for text in ("90s", "15m", "2h", "7d", "2w")] == [90, 900, 7200, 604_800, 1_209_600]
    assert [span_of(text) for text in ("", "m", "1.5h", "-1d", "123456789s", "٣d")] == [None] * 6


def test_a_span_is_so_long_ago() -> None:
    moment = past_of("--since", "2h")
    assert moment is not None
    ago = datetime.now(UTC) - datetime.fromisoformat(moment)
    assert 7200 <= ago.total_seconds() < 7260


def test_a_time_keeps_its_zone() -> None:
    assert past_of("--since", "2026-11-01T00:00:00+02:00") == "2026-11-01T00:00:00+02:00"
    assert past_of("--since", None) is None


@pytest.mark.parametrize("text", ["soon", "99999999w", "15 m", ""])
def test_what_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        past_of("--until", text)
    assert left.value.code == 1
    assert "--until" in capsys.readouterr().err
