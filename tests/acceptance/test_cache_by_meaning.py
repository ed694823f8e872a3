"""The cache by meaning, from a client's side: reworded prompts, what must be the same, and whom nothing reaches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from hx_gateway.app import Parts, build_app
from hx_gateway.settings import Settings, SettingsError
from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.test_cache_leaks import WAYS_TO_SHARE, forgeries, key_of, owners
from tests.fixtures.gateway import Answer, StartGateway
from tests.fixtures.servers import SERVERS, running_servers

MODEL = "hx-chat"
# The budget of a machine that does much else meanwhile: what these tests ask is not how fast it is.
BY_MEANING = {
    "HX_CACHE": "meaning",
    "HX_CACHE_EMBEDDING_MODEL": "emb-premium",
    "HX_CACHE_SIMILARITY": "0.7",
    "HX_CACHE_MEANING_BUDGET_MS": "5000",
}
ANYTHING = {"x-hx-cache-similarity": "0"}


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    """Run a gateway over a PostgreSQL with pgvector, as a role that row-level security holds for."""
    with running_servers(SERVERS[0]) as servers:
        asyncio.run(execute(servers.postgres.url, "CREATE EXTENSION vector"))
        with living(servers, {**UNPROBED, **BY_MEANING}) as people:
            people.gateway.wait_until(lambda: '"meaning_cache_ready"' in people.gateway.log())
            yield people


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def ask(
    people: People, key: str, text: str, headers: dict[str, str] | None = None, *, system: str = "", **fields: Any
) -> Answer:
    before = [{"role": "system", "content": system}] if system else []
    body = {"model": MODEL, "messages": [*before, {"role": "user", "content": text}], **fields}
    answer = people.ask("POST", "/v1/chat/completions", body, key=key, headers=headers)
    assert answer.status == 200, answer.body
    return answer


def outcome(answer: Answer) -> tuple[str | None, bool]:
    """Return what the cache said, and whether it found a text that is another one."""
    return answer.header("x-hx-cache"), answer.header("x-hx-cache-similarity") is not None


def kept(people: People, key: str, text: str, **more: Any) -> Answer:
    """Ask, and return the answer once it is found by its meaning: it is kept after it has gone out."""
    first = ask(people, key, text, **more)
    # A space makes it another prompt, and the same to whoever compares by meaning.
    looking = {**ANYTHING, "cache-control": "no-store"}
    people.gateway.wait_until(lambda: outcome(ask(people, key, f"{text} ", looking, **more))[1], 15)
    return first


def prompts() -> tuple[str, str, str]:
    """Return a prompt that nobody has sent, the same in other words, and another one."""
    name = uuid4().hex.translate(str.maketrans("0123456789", "ghijklmnop"))
    return (
        f"How do I reset the password of {name}?",
        f"please tell me how I reset the password of {name}",
        f"Who wrote a novel about {name}, and in which year did it appear?",
    )


@pytest.fixture
def key(people: People) -> str:
    """Give the key of a tenant of its own."""
    return key_of(people, tenant_id=people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"])


def test_a_reworded_prompt_is_answered_and_another_one_is_not(people: People, key: str) -> None:
    prompt, reworded, other = prompts()
    first = kept(people, key, prompt)
    again = ask(people, key, reworded)
    assert outcome(again) == ("hit", True)
    assert again.json() == first.json()
    assert 0.7 <= float(again.header("x-hx-cache-similarity") or 0) < 1
    assert again.header("x-hx-cost-usd") == "0"
    assert outcome(ask(people, key, other)) == ("miss", False)
    same = ask(people, key, prompt)
    assert outcome(same) == ("hit", False)


def test_a_stream_is_given_too(people: People, key: str) -> None:
    prompt, reworded, _ = prompts()
    said = kept(people, key, prompt).json()["choices"][0]["message"]["content"]
    answer = ask(people, key, reworded, stream=True)
    assert outcome(answer) == ("hit", True)
    events = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    parts = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(parts) == said


def test_how_near_is_near_enough_is_for_the_request_to_say(people: People, key: str) -> None:
    prompt, reworded, other = prompts()
    kept(people, key, prompt)
    assert outcome(ask(people, key, reworded, {"x-hx-cache-similarity": "0.999", "cache-control": "no-store"})) == (
        "miss",
        False,
    )
    assert outcome(ask(people, key, other, ANYTHING)) == ("hit", True)


@pytest.mark.parametrize("value", ["1.1", "-0.1", "nan", "1e-1", "0.5, 0.6", "high", "0." + "1" * 50])
def test_a_similarity_that_is_none_is_refused_by_name(people: People, key: str, value: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    headers = {"x-hx-cache-similarity": value}
    answer = people.ask("POST", "/v1/chat/completions", body, key=key, headers=headers)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "x-hx-cache-similarity")


def test_system_prompt_tools_parameters_numbers_and_what_was_said_before_must_be_the_same(
    people: People, key: str
) -> None:
    prompt, reworded, _ = prompts()
    kept(people, key, prompt)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    differing: list[dict[str, Any]] = [
        {"system": "Be brief."},
        {"temperature": 0.5},
        {"tools": tools},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 1000},
        {"cache": {"namespace": "n"}},
    ]
    for fields in differing:
        assert outcome(ask(people, key, reworded, ANYTHING, **fields)) == ("miss", False)
    assert outcome(ask(people, key, f"{reworded} in 2 steps", ANYTHING)) == ("miss", False)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    body = {"model": MODEL, "messages": [*talk, {"role": "user", "content": reworded}]}
    answer = people.ask("POST", "/v1/chat/completions", body, key=key, headers=ANYTHING)
    assert outcome(answer) == ("miss", False)


def test_who_has_it_exact_alone_may_ask_for_more_and_who_has_it_off_may_not(people: People) -> None:
    tenant = people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"]
    keys = {mode: key_of(people, tenant_id=tenant, cache={"mode": mode}) for mode in ("meaning", "exact", "ask", "off")}
    prompt, reworded, _ = prompts()
    kept(people, keys["meaning"], prompt)
    no_store = {"cache-control": "no-store"}
    said = {mode: outcome(ask(people, secret, reworded, no_store)) for mode, secret in keys.items()}
    assert said == {"meaning": ("hit", True), "exact": ("miss", False), "ask": (None, False), "off": (None, False)}
    for wish in ({"x-hx-cache": "meaning"}, {"x-hx-cache-similarity": "0.7"}):
        said = {mode: outcome(ask(people, secret, reworded, wish | no_store)) for mode, secret in keys.items()}
        assert said == {"meaning": ("hit", True), "exact": ("hit", True), "ask": ("hit", True), "off": (None, False)}


@pytest.mark.parametrize("scope", WAYS_TO_SHARE)
def test_nobody_outside_of_the_scope_gets_an_answer_at_threshold_0_whatever_is_forged(
    people: People, scope: str
) -> None:
    everybody = owners(people, scope)
    for owner in everybody:
        people.done("PATCH", f"/v1/keys/{key_id(people, owner.key)}", {"cache": {"mode": "meaning", "scope": scope}})
    seeder = everybody[0]
    prompt, reworded, other = prompts()
    people.gateway.wait_until(lambda: outcome(ask(people, seeder.key, uuid4().hex))[0] is not None)
    secret = kept(people, seeder.key, prompt).json()["id"]
    no_store, hits, tried = {**ANYTHING, "cache-control": "no-store"}, 0, 0
    for owner in everybody[1:]:
        if owner.shares(seeder, scope):
            answer = ask(people, owner.key, reworded, no_store)
            assert (answer.json()["id"], outcome(answer)) == (secret, ("hit", True))
            hits += 1
            continue
        claims = forgeries(seeder) if owner in (everybody[1], everybody[-1], everybody[8]) else [({}, {})]
        for headers, fields in claims:
            for text in (prompt, reworded, other):
                answer = ask(people, owner.key, text, headers | no_store, **fields)
                assert (answer.json()["id"] == secret, outcome(answer)[0]) == (False, "miss"), (owner, headers, fields)
                tried += 1
    assert tried > 50
    assert hits > 0 or scope == "key"
    # And the one whose it is has it still.
    assert ask(people, seeder.key, reworded, no_store).json()["id"] == secret


def key_id(people: People, secret: str) -> str:
    """Return the id of a key, which stands in it."""
    listed = people.done("GET", "/v1/keys?limit=200")["data"]
    return str(next(row["id"] for row in listed if row["last_four"] == secret[-4:]))


def test_a_purge_forgets_by_meaning_too(people: People, key: str) -> None:
    prompt, reworded, _ = prompts()
    kept(people, key, prompt)
    tenant = people.done("GET", f"/v1/keys/{key_id(people, key)}")["tenant_id"]
    # The exact one, and the one by meaning.
    assert people.done("DELETE", f"/v1/cache?tenant_id={tenant}")["purged"] == 2
    assert outcome(ask(people, key, reworded, ANYTHING)) == ("miss", False)


def test_the_embedded_stores_are_all_it_needs(start_gateway: StartGateway) -> None:
    gateway = start_gateway({**BY_MEANING, **UNPROBED}, stores=True)
    people = People(gateway)
    prompt, reworded, _ = prompts()
    gateway.wait_until(lambda: '"meaning_cache_ready"' in gateway.log())
    kept(people, gateway.key, prompt)
    assert outcome(ask(people, gateway.key, reworded)) == ("hit", True)


def test_a_qdrant_that_is_away_is_no_obstacle(start_gateway: StartGateway) -> None:
    gateway = start_gateway({**BY_MEANING, "QDRANT_URL": "http://127.0.0.1:1"})
    people = People(gateway)
    prompt, reworded, _ = prompts()
    for text, seen in ((prompt, "miss"), (prompt, "hit"), (reworded, "miss")):
        assert outcome(ask(people, gateway.key, text)) == (seen, False)
    metrics = gateway.get("/metrics").body.decode()
    assert 'hx_cache_meaning_look_ups_total{outcome="not_ready"} 2.0' in metrics


@pytest.mark.parametrize(
    "environ",
    [
        {"HX_CACHE": "meaning", "PG_URL": "postgresql://hx@127.0.0.1:1/hx"},
        {"HX_CACHE": "meaning", "HX_CACHE_EMBEDDING_MODEL": "emb-premium"},
    ],
)
def test_it_does_not_start_without_what_it_needs(environ: dict[str, str], tmp_path: Path) -> None:
    settings = Settings.model_validate({**environ, "HX_DATA_DIR": str(tmp_path)})
    with pytest.raises(SettingsError, match="HX_CACHE=meaning"):
        build_app(settings, Parts(environ={}))
