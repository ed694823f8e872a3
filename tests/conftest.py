"""What all tests share: an environment without anybody's settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

_OURS = (
    "HX_",
    "WRAPPER_",
    "PG_",
    "POSTGRES_",
    "REDIS_",
    "QDRANT_",
    "DATABASE_",
    "LITELLM_",
    "OPENAI_",
    "POOL_",
)
_KEPT = ("HX_TEST_",)

settings.register_profile("hx", deadline=None, max_examples=int(os.environ.get("HX_TEST_EXAMPLES", "100")))
settings.load_profile("hx")

pytest_plugins = ("tests.fixtures.gateway", "tests.fixtures.servers", "tests.fixtures.zoo")

_TESTS = Path(__file__).parent
_FAULTS = "faults"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process where there are several, and those of faults too: no two break things at once.

    They take longest and begin first.
    """
    for item in items:
        place = item.path.relative_to(_TESTS)
        item.add_marker(pytest.mark.xdist_group(_FAULTS if place.parts[0] == _FAULTS else str(place)))
    items.sort(key=lambda item: item.path.relative_to(_TESTS).parts[0] != _FAULTS)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that the program would read."""
    for name in list(os.environ):
        if name.startswith(_OURS) and not name.startswith(_KEPT):
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
