"""Which LiteLLM is meant, and what becomes of configurations that are wired and unwired."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given

from hx_gateway.wiring.litellm_config import LITELLM_VERSION, NOT_READ, REMOVED, UNWIRED, WIRED, unwired, wired
from hx_gateway.wiring.yaml_edit import get_value
from hx_gateway.wiring.yaml_tree import YamlProblem
from tests.unit.wiring.yaml_documents import documents

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def test_the_litellm_that_is_spoken_of_is_the_one_that_is_pinned() -> None:
    assert f"\nlitellm=={LITELLM_VERSION} " in (ROOT / "requirements-litellm.lock").read_text()
    guide = (ROOT / "docs/howto/wire.md").read_text()
    assert re.findall(r"LiteLLM (\d[\d.]*\d)", guide) == [LITELLM_VERSION]


def test_the_guide_names_every_key() -> None:
    guide = (ROOT / "docs/howto/wire.md").read_text()
    for key, _ in WIRED:
        assert ".".join(key[1:]) in guide
    not_read = next(line for line in guide.splitlines() if line.endswith("| no, other programs |"))
    assert re.findall(r"`(\w+)`", not_read) == ["litellm_settings", *(key[1] for key in NOT_READ)]


@given(documents())
def test_any_configuration_is_wired_and_unwired_or_refused(text: str) -> None:
    try:
        with_stores = wired(text).text
    except YamlProblem:
        return
    assert wired(with_stores).text == with_stores
    assert wired(with_stores).changed == ()
    without = unwired(with_stores).text
    assert unwired(without).text == without
    for key in (*REMOVED, ("litellm_settings", "cache"), ("litellm_settings", "cache_params", "type")):
        assert get_value(without, key) is None
    assert all(value is True and getattr(get_value(without, key), "text", None) == "true" for key, value in UNWIRED)
