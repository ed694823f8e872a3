"""Where a server's own spans are sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hx_gateway.recording import Record
from hx_gateway.settings import Settings
from hx_gateway.telemetry import Metrics


@pytest.mark.parametrize(
    ("token", "region"), [("pylf_v1_eu_made-up", "eu"), ("pylf_v1_us_made-up", "us"), ("made-up", "us")]
)
def test_a_token_of_logfire_is_all_that_it_needs(token: str, region: str, tmp_path: Path) -> None:
    record = Record(Settings.model_validate({"LOGFIRE_TOKEN": token, "HX_DATA_DIR": tmp_path}), Metrics())
    assert record.export._traces_url == f"https://logfire-{region}.pydantic.dev/v1/traces"
    assert record.export._headers == {"authorization": token}


def test_without_an_address_nothing_is_sent(tmp_path: Path) -> None:
    assert Record(Settings.model_validate({"HX_DATA_DIR": tmp_path}), Metrics()).export is None
