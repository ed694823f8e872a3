"""What a principal may use: every list must allow it."""

from __future__ import annotations

import pytest

from hx_gateway.access.principal import DEFAULT_TENANT, KeyId, Principal


def principal(*models: tuple[str, ...], routes: tuple[tuple[str, ...], ...] = ()) -> Principal:
    return Principal(
        key_id=KeyId("k1"), tenant_id=DEFAULT_TENANT, scopes=frozenset(), models=models, allowed_routes=routes
    )


@pytest.mark.parametrize(
    ("models", "model", "may"),
    [
        ((), "anything", True),
        ((("gpt-4o",),), "gpt-4o", True),
        ((("gpt-4o",),), "gpt-4o-mini", False),
        ((("gpt-*", "claude-*"),), "claude-3", True),
        ((("*",), ("gpt-*",)), "claude-3", False),
        ((("*",), ()), "gpt-4o", False),
        ((("GPT-*",),), "gpt-4o", False),
        ((("openai/*",),), "openai/a/b", True),
    ],
)
def test_a_model_must_be_in_every_list(models: tuple[tuple[str, ...], ...], model: str, may: bool) -> None:
    assert principal(*models).may_use(model) is may


def test_a_principal_can_be_put_into_a_set() -> None:
    assert len({principal(), principal(("a",))}) == 2


def test_without_confinement_every_path_may_be_taken() -> None:
    assert principal().may_take("/v1/anything")
    assert not principal(routes=(("/v1/chat/*",),)).may_take("/v1/keys")


def test_a_path_must_be_in_every_list() -> None:
    confined = principal(routes=(("/v1/*",), ("*/completions", "/v1/keys")))
    assert confined.may_take("/v1/chat/completions")
    assert not confined.may_take("/v1/embeddings")
    assert not principal(routes=(("/v1/*",), ())).may_take("/v1/keys")
