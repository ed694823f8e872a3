"""What all tests share: an environment without anybody's settings."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

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

settings.register_profile("hx", deadline=None, max_examples=int(os.environ.get("HX_TEST_EXAMPLES", "50")))
settings.load_profile("hx")

pytest_plugins = ("tests.fixtures.gateway", "tests.fixtures.servers", "tests.fixtures.zoo")

FAULTS = "tests/faults/"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps a file's tests in one of several processes, and all that break servers too: no two do so at once."""

    def _split_scope(self, nodeid: str) -> str:
        return FAULTS if nodeid.startswith(FAULTS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Deal out the tests."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(FAULTS))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that the program would read."""
    for name in list(os.environ):
        if name.startswith(_OURS) and not name.startswith(_KEPT):
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
