"""Marked secrets and prompts, sent in every way that goes wrong, and then looked for in all that is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from tests.acceptance.people import somewhere
from tests.acceptance.security.attacks import (
    database_text,
    events_since,
    files_below,
    found_in,
    metrics,
    redis_text,
)
from tests.acceptance.security.conftest import (
    PARROTS,
    STORE_PASSWORDS,
    UPSTREAM_SECRETS,
    WEBHOOK_SECRETS,
    Site,
)
from tests.fixtures.gateway import ADMIN_KEY, Answer

SETTLED_SECONDS = 30.0
RECORD_HEALTH = "/api/v1/observability/health"
# A name that a user gave to an object is kept: where it is not found, nobody looked.
GIVEN_NAME = "a-name-that-may-be-kept-6b1e"
INTERNALS = re.compile(
    rb"Traceback|asyncpg|sqlalchemy|psycopg|SELECT |INSERT |UPDATE |relation \"|column \"|hx_gateway\.|site-packages|"
    rb"\.py\b|line \d+|/tmp/|postgresql://|redis://"
)


@dataclass
class Canaries:
    """Words that nobody else says. Each that is handed out is looked for later."""

    words: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def new(self, place: str) -> str:
        word = f"canary-{place}-{next(self._numbers):04d}-q7zk"
        self.words.append(word)
        return word


@dataclass
class Sent:
    """What was sent, and the answers to it."""

    canaries: Canaries
    answers: list[tuple[str, Answer]]
    start: int


@pytest.fixture(scope="module")
def sent(site: Site) -> Sent:
    """Send canaries in headers, bodies, queries and paths, to every route and into every kind of failure."""
    canaries, start = Canaries(), len(site.gateway.log())
    sender = Sender(site, canaries)
    sender.budgets()
    sender.models()
    sender.bad_bodies()
    sender.bad_keys()
    sender.admin()
    sender.streams()
    # Three tries with pauses, and then it is given up.
    site.gateway.wait_until(lambda: "budget_alert_failed" in site.gateway.log(), SETTLED_SECONDS)
    site.gateway.wait_until(lambda: site.people.done("GET", RECORD_HEALTH)["waiting"] == 0, SETTLED_SECONDS)
    site.gateway.wait_until(lambda: sender.last_id in database_text(site.postgres_url), SETTLED_SECONDS)
    return Sent(canaries, sender.answers, start)


class Sender:
    """Sends."""

    def __init__(self, site: Site, canaries: Canaries) -> None:
        self.site = site
        self.canaries = canaries
        self.answers: list[tuple[str, Answer]] = []
        self.last_id = ""
        people, tenant = site.people, site.world.tenant
        self.plain = people.key(tenant_id=tenant, name=GIVEN_NAME)["key"]
        budgets = [{"limit_usd": 1000, "soft_usd": 0, "period": "day"}]
        self.budgeted = people.key(tenant_id=tenant, budgets=budgets)["key"]
        self.limited = people.key(tenant_id=tenant, limits={"rpm": 1})["key"]
        self.broke = people.key(tenant_id=tenant, budgets=[{"limit_usd": 0, "period": "total"}])["key"]
        for secret in (self.plain, self.budgeted, self.broke):
            people.until(secret, let_in=True)

    def send(self, method: str, path: str, body: object = None, *, key: str | None = None, **more: Any) -> Answer:
        """Send one request with canaries in its query and headers."""
        new = self.canaries.new
        query = f"{'&' if '?' in path else '?'}api_key={new('query')}&prompt={new('query')}"
        headers = {
            **somewhere(),
            "cookie": f"session={new('cookie')}",
            "user-agent": new("agent"),
            "x-secret": new("header"),
            "referer": f"https://user:{new('userinfo')}@example.org/",
            **more.pop("headers", {}),
        }
        answer = self.site.people.ask(method, path + query, body, key=key, headers=headers, **more)
        self.answers.append((f"{method} {path}", answer))
        return answer

    def chat(self, model: str, *, key: str, **fields: Any) -> Answer:
        """Send a chat request full of canaries."""
        new = self.canaries.new
        self.last_id = f"req-{new('id')[:20]}-{len(self.answers)}"
        self.canaries.words.pop()
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": new("system")},
                {"role": "user", "content": [{"type": "text", "text": new("prompt")}]},
                {"role": "user", "content": f"Return exactly the text: {new('answer')}", "name": new("name")},
            ],
            "user": new("user"),
            "metadata": {"note": new("metadata")},
            "tools": [{"type": "function", "function": {"name": "f", "description": new("tool")}}],
            "stop": [new("stop")],
            **fields,
        }
        return self.send("POST", "/v1/chat/completions", body, key=key, headers={"x-request-id": self.last_id})

    def models(self) -> None:
        """Calls of every upstream and every ending, and those that limits refuse."""
        for model in ("hx-chat", *(f"parrot-{kind}" for kind in PARROTS), "nobody-serves-this"):
            self.chat(model, key=self.plain)
            self.chat(model, key=self.budgeted)
        for _ in range(2):
            self.chat("hx-chat", key=self.limited)
        self.chat("hx-chat", key=self.broke)
        self.chat("parrot-400", key=self.site.gateway.key)
        for path, body in (
            ("/v1/completions", {"model": "hx-chat", "prompt": self.canaries.new("prompt")}),
            ("/v1/embeddings", {"model": "emb-premium", "input": [self.canaries.new("input")]}),
            ("/v1/cost/estimate", {"model": "hx-chat", "messages": [{"role": "user", "content": "x"}]}),
            ("/v1/rerank", {"model": "hx-chat", "query": self.canaries.new("input")}),
        ):
            self.send("POST", path, body, key=self.plain)

    def streams(self) -> None:
        """Calls whose answer comes in parts."""
        for model in ("hx-chat", "parrot-200", "parrot-400", "parrot-cut"):
            self.chat(model, key=self.plain, stream=True)
        self.chat("hx-chat", key=self.plain)

    def budgets(self) -> None:
        """A soft limit that is crossed: somebody's webhook is told, and fails."""
        self.chat("hx-chat", key=self.budgeted)

    def bad_bodies(self) -> None:
        """Bodies that are refused for what is in them."""
        new = self.canaries.new
        message = [{"role": "user", "content": new("prompt")}]
        bodies: list[object] = [
            {"model": "hx-chat", "messages": message, "api_key": new("body")},
            {"model": "hx-chat", "messages": message, "extra_headers": {"authorization": new("body")}},
            {"model": "hx-chat", "messages": message, "metadata": {"user_api_key_x": new("body")}},
            {"model": "hx-chat", "messages": new("prompt")},
            {"model": "hx-chat", "messages": [new("prompt")]},
            {"model": "hx-chat", "messages": [{"content": new("prompt")}]},
            {"model": "hx-chat", "messages": message, "stream_options": new("body")},
            {"messages": message},
            [new("prompt")],
        ]
        for body in bodies:
            self.send("POST", "/v1/chat/completions", body, key=self.plain)
        raws = [
            f'{{"model":"hx-chat","messages":[{{"role":"user","content":"{new("prompt")}"}}]',
            f'{{"model":"hx-chat","messages":[],"messages":[{{"role":"user","content":"{new("prompt")}"}}]}}',
            f'{{"model":"hx-chat","x":NaN,"messages":[{{"role":"user","content":"{new("prompt")}"}}]}}',
            f"{'[' * 2000}{new('prompt')}",
            f"\xff{new('prompt')}",
        ]
        for raw in raws:
            self.send("POST", "/v1/chat/completions", key=self.plain, raw=raw.encode("latin-1"))
        kinds = {"content-encoding": "gzip"}, {"content-type": f"text/{new('header')}"}
        for headers in kinds:
            self.send("POST", "/v1/embeddings", {"input": new("input")}, key=self.plain, headers=headers)

    def bad_keys(self) -> None:
        """Keys that are none, in each place that a key may stand in, and a right one in the wrong place."""
        new = self.canaries.new
        for name in ("authorization", "x-api-key", "api-key"):
            for text in (f"Bearer {new('key')}", new("key"), f"Basic {new('key')}"):
                self.send("POST", "/v1/chat/completions", {"model": new("body")}, key="", headers={name: text})
        self.send("GET", "/v1/models", key=self.plain, headers={"x-api-key": new("key")})
        for path in (f"/v1/keys/{new('path')}", f"/{new('path')}", f"/v1/{new('path')}"):
            self.send("GET", path, key=self.plain)
            self.send("BREW", path, key=self.plain)
        self.send("GET", f"/v1/keys/{self.plain}")
        self.send("GET", f"/{self.plain}/x", key="")

    def admin(self) -> None:
        """What administrators get wrong."""
        new = self.canaries.new
        for body in (
            {"name": "A", "password": new("body")},
            {"name": "A", "metadata": new("metadata")},
            {"name": "A", "expires_at": new("body")},
            {"name": "A", "limits": {new("body"): 1}},
            {"name": "A", "team_id": new("body")},
            {"name": "A", "scopes": [new("body")]},
            {"name": "A", "budgets": [{"limit_usd": new("body"), "period": "day"}]},
        ):
            self.send("POST", "/v1/keys", body)
        headers = {"idempotency-key": new("idempotency") + "\x80"}
        self.send("POST", "/v1/keys", {"name": "A"}, headers=headers)
        self.send("PUT", f"/v1/prices/{new('path')}", {"input": new("body")})
        self.send("GET", f"/v1/audit?object_id={new('query')}")
        self.send("GET", f"/v1/keys?cursor={new('query')}&sort={new('query')}")
        # A secret in the notes of an object is masked where changes are recorded; the object itself keeps it.
        event = {"table": "nowhere", "trace_id": new("body"), "message": new("body")}
        self.send("POST", "/api/v1/observability/events", {"events": [event]})


@pytest.mark.parametrize("text", ["x hush-hush x", "x687573682d68757368x", "x687573682D68757368x", "x aHVzaC1odXNo x"])
def test_who_looks_for_a_secret_finds_it_in_every_dress(text: str) -> None:
    assert found_in(text, ["hush-hush", "not-there"]) == ["hush-hush"]


def test_every_kind_of_failure_was_made(sent: Sent) -> None:
    statuses = {answer.status for _, answer in sent.answers}
    assert statuses >= {200, 400, 401, 403, 404, 422, 429, 502, 503}, statuses
    assert len(sent.canaries.words) > 500


def test_no_prompt_and_no_secret_is_kept_anywhere(site: Site, sent: Sent) -> None:
    own = [*STORE_PASSWORDS, *UPSTREAM_SECRETS, *WEBHOOK_SECRETS, ADMIN_KEY]
    words = [*sent.canaries.words, *own]
    database = database_text(site.postgres_url)
    assert GIVEN_NAME in database
    assert found_in(database, words) == []
    assert found_in(redis_text(site.redis_url), words) == []
    for gateway in site.gateways:
        assert found_in(metrics(gateway), words) == []
        seen = 0
        for path, data in files_below(gateway.data_dir):
            assert found_in(data, words) == [], path
            seen += "journal" in path.parts
        assert seen >= 2


def test_no_answer_says_a_secret_of_the_gateway(sent: Sent) -> None:
    own = [*STORE_PASSWORDS, *UPSTREAM_SECRETS, *WEBHOOK_SECRETS, ADMIN_KEY]
    said = []
    for asked, answer in sent.answers:
        # A whole answer of the model's server is the client's, whatever it says.
        if not (asked.startswith("POST /v1/chat") and answer.status == 200):
            said += [(asked, str(answer.status), word) for word in found_in(answer.body, own)]
            assert INTERNALS.search(answer.body) is None, (asked, answer.body)
        said += [(asked, "headers", word) for word in found_in(str(answer.headers), own)]
    assert said == []


def test_a_webhook_hears_of_its_own_tenants_budget_and_of_no_call(site: Site, sent: Sent) -> None:
    hooks = [hook for hook in site.parrot.hooks if "soft_limit" in hook]
    assert hooks
    for hook in hooks:
        assert f'"tenant_id":"{site.world.tenant}"' in hook.replace(" ", "")
        assert found_in(hook, sent.canaries.words) == []
        assert found_in(hook.replace(WEBHOOK_SECRETS[1], ""), [*UPSTREAM_SECRETS, WEBHOOK_SECRETS[0], ADMIN_KEY]) == []


def test_what_the_log_says_is_whole_lines_of_what_happened(site: Site, sent: Sent) -> None:
    events = events_since(site.gateway, sent.start)
    assert {event["event"] for event in events} >= {"request", "budget_soft_limit", "budget_alert_failed"}
    failures = {"request_failed", "reply_failed", "finisher_failed"}
    assert [event for event in events if event["event"] in failures] == []
