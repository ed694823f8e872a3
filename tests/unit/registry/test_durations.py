"""Lengths of time are read as people write them, or refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hx_gateway.registry.api.durations import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("2h", 7200), ("7d", 604_800), ("PT15M", 900), ("P1D", 86_400), ("0s", 0)],
)
def test_a_length_of_time_is_read(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "15", "m", "-5m", "15 m", "1w", "999999999d", "P", "-PT5M", "PT", "1.5h", "15m\n"]
)
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        duration(text)
