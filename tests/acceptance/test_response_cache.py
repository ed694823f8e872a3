"""The response cache, with the official OpenAI client and by hand: what is answered from it, and what never is."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import openai
import pytest

from tests.fixtures.gateway import NO_STORES, Answer, Gateway, StartGateway
from tests.fixtures.zoo import Zoo

MODEL = "zoo:counted"
SLOW: dict[str, Any] = {"zoo": {"milliseconds": 400}}


@pytest.fixture(scope="module")
def proxy(zoo_beside: Zoo) -> Iterator[Gateway]:
    """Run a gateway with the cache on, whose only upstream is the zoo."""
    environ = {**NO_STORES, "HX_CACHE": "exact", "LITELLM_BASE_URL": zoo_beside.url, "HX_UPSTREAM_IDLE_TIMEOUT": "1"}
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        running = Gateway(environ, Path(directory)).start()
        yield running
        running.stop()


@pytest.fixture
def client(proxy: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=proxy.key, max_retries=0) as made:
        yield made


def prompt(text: str | None = None) -> list[Any]:
    """Return messages that nobody has sent before, unless ``text`` is given."""
    return [{"role": "user", "content": text or uuid4().hex}]


def said(answer: Answer) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


class Asking:
    """One prompt of its own, asked again and again."""

    def __init__(self, proxy: Gateway, model: str = MODEL, **fields: Any) -> None:
        self.proxy = proxy
        self.body = {"model": model, "messages": prompt(), **fields}

    def __call__(self, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        body = {**self.body, **fields}
        return self.proxy.request("POST", "/v1/chat/completions", body, key=self.proxy.key, headers=headers)

    def outcome(self, headers: dict[str, str] | None = None, **fields: Any) -> str | None:
        answer = self(headers, **fields)
        assert answer.status == 200, answer.body
        return answer.header("x-hx-cache")


class Talk:
    """One conversation of the official client in one of two forms."""

    def __init__(self, client: openai.OpenAI, messages: list[Any], *, stream: bool) -> None:
        chat = client.chat.completions.with_raw_response
        if stream:
            options: Any = {"include_usage": True}
            raw: Any = chat.create(model=MODEL, messages=messages, stream=True, stream_options=options)
            chunks = list(raw.parse())
            self.text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            self.reason = next(chunk.choices[0].finish_reason for chunk in reversed(chunks) if chunk.choices)
            self.id, self.usage = chunks[0].id, chunks[-1].usage
            self.pieces = sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks)
        else:
            raw = chat.create(model=MODEL, messages=messages)
            answer = raw.parse()
            self.text, self.reason = answer.choices[0].message.content, answer.choices[0].finish_reason
            self.id, self.usage, self.pieces = answer.id, answer.usage, 1
        self.outcome, self.age = raw.headers["x-hx-cache"], raw.headers.get("x-hx-cache-age")


@pytest.mark.parametrize("first", ["unary", "stream"])
@pytest.mark.parametrize("second", ["unary", "stream"])
def test_both_forms_share_an_answer_and_get_it_in_the_form_asked_for(
    client: openai.OpenAI, zoo_beside: Zoo, first: str, second: str
) -> None:
    messages, before = prompt(), len(zoo_beside.requests)
    made = Talk(client, messages, stream=first == "stream")
    again = Talk(client, messages, stream=second == "stream")
    assert (made.outcome, made.age, again.outcome) == ("miss", None, "hit")
    assert again.age is not None
    assert int(again.age) < 60
    assert (made.text, made.id, made.reason, made.usage) == (again.text, again.id, again.reason, again.usage)
    assert len(zoo_beside.requests) == before + 1
    assert (again.pieces > 3) is (second == "stream")


def test_completions_and_embeddings_are_kept_too(start_gateway: StartGateway) -> None:
    gateway = start_gateway({"HX_CACHE": "exact"})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        raw: Any = [client.completions.with_raw_response.create(model="hx-chat", prompt="Say more.") for _ in range(2)]
        assert [answer.headers["x-hx-cache"] for answer in raw] == ["miss", "hit"]
        text = raw[0].parse().choices[0].text
        again = client.completions.create(model="hx-chat", prompt="Say more.", stream=True)
        assert "".join(chunk.choices[0].text for chunk in again) == raw[1].parse().choices[0].text == text
        first = client.completions.create(model="hx-chat", prompt="And more.", stream=True)
        text = "".join(chunk.choices[0].text for chunk in first)
        raw = client.completions.with_raw_response.create(model="hx-chat", prompt="And more.")
        assert (raw.headers["x-hx-cache"], raw.parse().choices[0].text) == ("hit", text)
        embed = client.embeddings.with_raw_response.create
        vectors: Any = [embed(model="emb-premium", input=["the cat", "the dog"]) for _ in range(2)]
        assert [answer.headers["x-hx-cache"] for answer in vectors] == ["miss", "hit"]
        assert vectors[0].parse().data == vectors[1].parse().data


def test_a_hit_is_the_very_answer_and_another_parameter_another(proxy: Gateway) -> None:
    ask = Asking(proxy)
    first = ask(temperature=1)
    assert ask(temperature=1.0).body == first.body
    others: list[dict[str, Any]] = [{}, {"temperature": 0}, {"seed": 1}, {"n": 1}, {"tools": []}, {"made_up": None}]
    for fields in others:
        assert said(ask(**fields)) != said(first)
    alike: list[dict[str, Any]] = [{"user": "ada"}, {"metadata": {"a": "b"}}, {"stream": False}]
    for fields in alike:
        assert ask(temperature=1, **fields).body == first.body


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_filtered_or_calls_tools_is_not_kept(proxy: Gateway, reason: str, stream: bool) -> None:
    ask = Asking(proxy, zoo={"reason": reason}, stream=stream)
    assert [ask.outcome(), ask.outcome()] == ["miss", "miss"]


def test_an_answer_cut_at_the_client_s_own_cap_is_kept(proxy: Gateway) -> None:
    ask = Asking(proxy, zoo={"reason": "length"}, max_tokens=5)
    assert [ask.outcome(), ask.outcome(), ask.outcome(stream=True)] == ["miss", "hit", "hit"]


@pytest.mark.parametrize("mode", ["error_in_200", "empty_body", "gzip_answer", "large_answer"])
def test_what_is_no_whole_answer_is_not_kept(proxy: Gateway, mode: str) -> None:
    ask = Asking(proxy, f"zoo:{mode}")
    assert [ask.outcome(), ask.outcome()] == ["miss", "miss"]


@pytest.mark.parametrize(
    "mode", ["no_done", "close_mid_stream", "rst_mid_stream", "hang_mid_stream", "error_event", "invalid_json", "ok"]
)
def test_a_stream_that_is_not_whole_is_not_kept(proxy: Gateway, mode: str) -> None:
    ask = Asking(proxy, f"zoo:{mode}", stream=True)
    assert [ask.outcome(), ask.outcome()] == ["miss", "miss"]


def test_a_failure_is_not_kept(proxy: Gateway) -> None:
    ask = Asking(proxy, "zoo:status_500")
    assert [(answer.status, answer.header("x-hx-cache")) for answer in (ask(), ask())] == [(502, "miss")] * 2


def test_a_request_may_pass_the_cache_by(proxy: Gateway) -> None:
    ask = Asking(proxy)
    assert ask.outcome() == "miss"
    for headers, fields in (
        ({"cache-control": "no-cache"}, {}),
        ({"x-hx-cache": "off"}, {}),
        ({"x-hx-cache": "refresh"}, {}),
        (None, {"cache": {"no-cache": True}}),
        (None, {"cache": {"use-cache": False}}),
    ):
        assert ask.outcome(headers, **fields) == "bypass"
    assert ask.outcome() == "hit"


def test_a_fresh_answer_takes_the_place_of_the_kept_one(proxy: Gateway) -> None:
    ask = Asking(proxy)
    old, new = said(ask()), said(ask({"x-hx-cache": "refresh"}))
    assert old != new
    assert said(ask()) == new
    assert said(ask({"x-hx-cache": "off"})) != new
    assert said(ask()) == new


def test_an_answer_that_must_not_be_stored_is_not(proxy: Gateway) -> None:
    ask = Asking(proxy)
    outcomes = [ask.outcome({"cache-control": "no-store"}), ask.outcome(cache={"no-store": True}), ask.outcome()]
    assert outcomes == ["miss", "miss", "miss"]
    assert ask.outcome({"cache-control": "no-store"}) == "hit"


def test_an_answer_that_is_too_old_is_not_given(proxy: Gateway) -> None:
    ask = Asking(proxy)
    ask()
    assert ask.outcome({"cache-control": "max-age=60"}) == "hit"
    assert ask.outcome({"cache-control": "max-age=0"}) == "miss"
    assert ask.outcome(cache={"s-maxage": 60}) == "hit"


def test_an_answer_is_kept_no_longer_than_was_asked(proxy: Gateway) -> None:
    ask = Asking(proxy)
    assert [ask.outcome(cache={"ttl": 1}), ask.outcome()] == ["miss", "hit"]
    time.sleep(1.1)
    assert ask.outcome() == "miss"


def test_a_namespace_only_narrows_and_the_upstream_is_told_nothing(proxy: Gateway, zoo_beside: Zoo) -> None:
    ask = Asking(proxy)
    outcomes = [ask.outcome(), *(ask.outcome(cache={"namespace": name}) for name in ("one", "one", "other"))]
    assert outcomes == ["miss", "miss", "hit", "miss"]
    assert all("cache" not in seen.json() for seen in zoo_beside.requests[-3:])


@pytest.mark.parametrize(
    ("cache", "param"),
    [
        (True, "cache"),
        ([], "cache"),
        ({"ttl": 0}, "cache.ttl"),
        ({"ttl": 10**30}, "cache.ttl"),
        ({"s-maxage": "1"}, "cache.s-maxage"),
        ({"no-cache": 1}, "cache.no-cache"),
        ({"namespace": ""}, "cache.namespace"),
        ({"namespace": "x" * 65}, "cache.namespace"),
        ({"namespace": {}}, "cache.namespace"),
        ({"similarity": 0}, "cache"),
    ],
)
def test_what_is_asked_of_the_cache_must_make_sense(proxy: Gateway, cache: object, param: str) -> None:
    answer = Asking(proxy)(cache=cache)
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["code"] == "invalid_value"


@pytest.mark.parametrize("word", ["yes", "hit", "\xff", "on,off"])
def test_an_unknown_word_in_the_header_is_refused(proxy: Gateway, word: str) -> None:
    answer = Asking(proxy)({"x-hx-cache": word})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "x-hx-cache")


def test_what_readers_would_read_differently_is_passed_by(proxy: Gateway) -> None:
    twice = b'{"model":"%b","messages":[{"role":"user","content":"one","content":"other"}]}' % MODEL.encode()
    for _ in range(2):
        answer = proxy.request("POST", "/v1/chat/completions", raw=twice, key=proxy.key)
        assert (answer.status, answer.header("x-hx-cache")) == (200, "bypass")


async def test_fifty_clients_who_ask_the_same_at_once_are_one_call(proxy: Gateway, zoo_beside: Zoo) -> None:
    messages, before = prompt(), len(zoo_beside.requests)

    async def ask(asking: openai.AsyncOpenAI, number: int) -> Any:
        if number % 2:
            stream = await asking.chat.completions.create(model=MODEL, messages=messages, stream=True, extra_body=SLOW)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        answer = await asking.chat.completions.create(model=MODEL, messages=messages, extra_body=SLOW)
        return answer.choices[0].message.content

    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=proxy.key, max_retries=0) as asking:
        texts = await asyncio.gather(*(ask(asking, number) for number in range(50)))
    assert len(set(texts)) == 1
    assert len(zoo_beside.requests) == before + 1


def leave(proxy: Gateway, body: dict[str, Any], seconds: float) -> None:
    """Ask, and hang up after a while."""
    data = msgspec.json.encode(body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {proxy.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(head.encode() + data)
        time.sleep(seconds)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_nobody_with_it(proxy: Gateway, zoo_beside: Zoo, stream: bool) -> None:
    ask, before = Asking(proxy, stream=stream, **SLOW), len(zoo_beside.requests)
    leader = threading.Thread(target=leave, args=(proxy, ask.body, 0.2))
    leader.start()
    proxy.wait_until(lambda: len(zoo_beside.requests) == before + 1)
    answers: list[Answer] = []
    others = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(5)]
    for other in others:
        other.start()
    for thread in (leader, *others):
        thread.join()
    assert [answer.status for answer in answers] == [200] * 5
    assert len({answer.body for answer in answers}) <= 2
    assert len(zoo_beside.requests) == before + 2


def test_nobody_waits_past_a_call_that_failed(proxy: Gateway) -> None:
    ask = Asking(proxy, "zoo:hang_mid_body")
    answers: list[tuple[int, float]] = []

    def timed() -> None:
        began = time.monotonic()
        answers.append((ask().status, time.monotonic() - began))

    threads = [threading.Thread(target=timed) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [504] * 6
    # One failure after the other would take six seconds; the first, and then all others at once, takes two.
    assert max(seconds for _, seconds in answers) < 5


def test_hits_misses_and_bypasses_are_counted_with_what_they_saved(proxy: Gateway) -> None:
    def counted() -> dict[str, float]:
        lines = proxy.get("/metrics", key=proxy.key).body.decode().splitlines()
        figures = (line.rpartition(" ") for line in lines if line.startswith("hx_cache"))
        return {name: float(value) for name, _, value in figures}

    before, ask = counted(), Asking(proxy)
    ask()
    ask()
    ask({"x-hx-cache": "off"})
    moved = {name: value - before.get(name, 0) for name, value in counted().items() if value != before.get(name)}
    assert {name: value for name, value in moved.items() if "_created" not in name} == {
        'hx_cache_requests_total{kind="none",outcome="miss"}': 1,
        'hx_cache_requests_total{kind="exact",outcome="hit"}': 1,
        'hx_cache_requests_total{kind="asked",outcome="bypass"}': 1,
        'hx_cache_saved_tokens_total{kind="exact",part="prompt"}': 5,
        'hx_cache_saved_tokens_total{kind="exact",part="completion"}': 2,
    }


def test_the_log_says_what_the_cache_did_and_never_what_was_asked(proxy: Gateway) -> None:
    ask = Asking(proxy)
    ask()
    ask()

    def lines() -> list[Any]:
        log = [line for line in proxy.log().splitlines() if '"chat_completions"' in line]
        return [msgspec.json.decode(line) for line in log[-2:]]

    # A line is written once its client has the answer.
    proxy.wait_until(lambda: [line.get("cache") for line in lines()] == ["miss", "hit"])
    assert lines()[-1].get("upstream") is None
    assert str(ask.body["messages"][0]["content"]) not in proxy.log()


def test_it_is_off_unless_it_is_turned_on(gateway: Gateway) -> None:
    body = {"model": "hx-chat", "messages": prompt()}
    answers = [
        gateway.request("POST", "/v1/chat/completions", body, key=gateway.key, headers={"x-hx-cache": "on"})
        for _ in range(2)
    ]
    assert [answer.header("x-hx-cache") for answer in answers] == [None, None]
    assert gateway.post("/v1/chat/completions", {**body, "cache": {"ttl": 5}}, key=gateway.key).status == 200
    assert gateway.post("/v1/chat/completions", {**body, "cache": 5}, key=gateway.key).status == 400
