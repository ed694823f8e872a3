"""Bad input gets a clear 4xx that names the field, and no upstream ever sees it."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.gateway import NO_STORES, Gateway
from tests.fixtures.zoo import Zoo

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def behind(zoo_beside: Zoo) -> Iterator[Gateway]:
    """Run a gateway before a zoo."""
    environ = {**NO_STORES, "LITELLM_BASE_URL": zoo_beside.url}
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        running = Gateway(environ, Path(directory)).start()
        yield running
        running.stop()


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "zoo:ok", "messages": [USER], **fields}).encode()


def embedding(value: object, **fields: object) -> bytes:
    return json.dumps({"model": "zoo:ok", "input": value, **fields}).encode()


# Raw bodies for chat: code, and the field where one is to blame.
BODIES: dict[str, tuple[bytes, str, str | None]] = {
    "nothing": (b"", "invalid_json", None),
    "white space": (b" \n", "invalid_json", None),
    "no JSON": (b"hello", "invalid_json", None),
    "cut off": (b'{"model": "zoo:ok"', "invalid_json", None),
    "two documents": (chat() + chat(), "invalid_json", None),
    "trailing comma": (b'{"model": "zoo:ok",}', "invalid_json", None),
    "comment": (b'{"model": "zoo:ok" /* x */}', "invalid_json", None),
    "single quotes": (b"{'model': 'zoo:ok'}", "invalid_json", None),
    "NaN": (chat(temperature=float("nan")), "invalid_json", None),
    "Infinity": (chat(temperature=float("inf")), "invalid_json", None),
    "byte order mark": (b"\xef\xbb\xbf" + chat(), "invalid_json", None),
    "zero byte": (chat()[:-1] + b"\x00}", "invalid_json", None),
    "control in a string": (b'{"model": "a\x01b", "messages": []}', "invalid_json", None),
    "UTF-16": (chat().decode().encode("utf-16"), "invalid_utf8", None),
    "not UTF-8": (chat().replace(b"hi", b"\xff\xfe"), "invalid_utf8", None),
    "overlong UTF-8": (chat().replace(b"hi", b"\xc0\xaf"), "invalid_utf8", None),
    "lone surrogate": (chat().replace(b"hi", b"\\ud800"), "lone_surrogate", None),
    "list": (b"[]", "not_an_object", None),
    "null": (b"null", "not_an_object", None),
    "string": (b'"x"', "not_an_object", None),
    "number": (b"1", "not_an_object", None),
    "model twice": (b'{"model":"a",' + chat()[1:], "duplicate_key", None),
    "escaped duplicate": (b'{"mode\\u006c":"a",' + chat()[1:], "duplicate_key", None),
    "deep lists": (chat()[:-1] + b',"x":' + b"[" * 100 + b"]" * 100 + b"}", "json_too_deep", None),
    "depth bomb": (chat()[:-1] + b',"x":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "json_too_deep", None),
    "number too large": (chat()[:-1] + b',"x":1e999}', "number_not_finite", None),
    "endless integer": (chat()[:-1] + b',"max_tokens":' + b"9" * 5000 + b"}", "number_not_finite", None),
}
# Fields of a chat request: what is sent, and the field to blame.
FIELDS: dict[str, tuple[bytes, str]] = {
    "no model": (json.dumps({"messages": [USER]}).encode(), "model"),
    "model null": (chat(model=None), "model"),
    "model empty": (chat(model=""), "model"),
    "model a number": (chat(model=5), "model"),
    "model a list": (chat(model=["a"]), "model"),
    "model too long": (chat(model="m" * 257), "model"),
    "model with a line end": (chat(model="a\nb"), "model"),
    "no messages": (json.dumps({"model": "zoo:ok"}).encode(), "messages"),
    "messages empty": (chat(messages=[]), "messages"),
    "messages a string": (chat(messages="hi"), "messages"),
    "messages of strings": (chat(messages=["hi"]), "messages"),
    "message without a role": (chat(messages=[{"content": "hi"}]), "messages"),
    "role a number": (chat(messages=[{"role": 1}]), "messages"),
    "stream a string": (chat(stream="yes"), "stream"),
    "stream a number": (chat(stream=1), "stream"),
    "stream_options a list": (chat(stream=True, stream_options=[1]), "stream_options"),
    "max_tokens zero": (chat(max_tokens=0), "max_tokens"),
    "max_tokens negative": (chat(max_tokens=-1), "max_tokens"),
    "max_tokens a fraction": (chat(max_tokens=1.5), "max_tokens"),
    "max_tokens a string": (chat(max_tokens="10"), "max_tokens"),
    "max_completion_tokens zero": (chat(max_completion_tokens=0), "max_completion_tokens"),
    "n zero": (chat(n=0), "n"),
    "n too large": (chat(n=1000), "n"),
    "n a string": (chat(n="2"), "n"),
    "temperature a string": (chat(temperature="hot"), "temperature"),
    "top_p a list": (chat(top_p=[1]), "top_p"),
    "api_base": (chat(api_base="http://169.254.169.254"), "api_base"),
    "api_key": (chat(api_key="x"), "api_key"),
    "base_url": (chat(base_url="http://x"), "base_url"),
    "extra_headers": (chat(extra_headers={"a": "b"}), "extra_headers"),
    "custom_llm_provider": (chat(custom_llm_provider="x"), "custom_llm_provider"),
}
INPUTS: dict[str, tuple[bytes, str]] = {
    "no input": (json.dumps({"model": "zoo:ok"}).encode(), "input"),
    "input null": (embedding(None), "input"),
    "input empty": (embedding(""), "input"),
    "input an empty list": (embedding([]), "input"),
    "input with an empty string": (embedding(["a", ""]), "input"),
    "input a number": (embedding(5), "input"),
    "input an object": (embedding({"a": 1}), "input"),
    "input mixed": (embedding(["a", 1]), "input"),
    "input with a negative token": (embedding([1, -1]), "input"),
    "input with a fraction": (embedding([1.5]), "input"),
    "input with an empty list": (embedding([[]]), "input"),
    "input too long": (embedding(["a"] * 2049), "input"),
    "unknown encoding_format": (embedding("a", encoding_format="hex"), "encoding_format"),
    "dimensions zero": (embedding("a", dimensions=0), "dimensions"),
}


def refused(behind: Gateway, zoo: Zoo, path: str, data: bytes) -> dict[str, object]:
    before = len(zoo.requests)
    answer = behind.request("POST", path, raw=data, key=behind.key)
    assert answer.status == 400, answer.body
    assert len(zoo.requests) == before
    error: dict[str, object] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize("name", sorted(BODIES))
def test_a_body_that_is_not_strict_json(behind: Gateway, zoo_beside: Zoo, name: str) -> None:
    data, code, param = BODIES[name]
    error = refused(behind, zoo_beside, CHAT, data)
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_field_that_breaks_a_rule_is_named(behind: Gateway, zoo_beside: Zoo, name: str) -> None:
    data, param = FIELDS[name]
    error = refused(behind, zoo_beside, CHAT, data)
    assert str(error["param"]).split(".")[0].split("[")[0] == param
    assert param in str(error["message"])


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_input_that_breaks_a_rule_is_named(behind: Gateway, zoo_beside: Zoo, name: str) -> None:
    data, param = INPUTS[name]
    error = refused(behind, zoo_beside, "/v1/embeddings", data)
    assert str(error["param"]).split(".")[0].split("[")[0] == param


@pytest.mark.parametrize(
    ("headers", "data", "status", "code"),
    [
        ({"content-type": "text/plain"}, chat(), 415, "unsupported_media_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, chat(), 415, "unsupported_media_type"),
        ({"content-encoding": "gzip"}, gzip.compress(chat(), mtime=0), 415, "unsupported_media_type"),
        ({"content-encoding": "br"}, chat(), 415, "unsupported_media_type"),
        ({"content-length": str(50 * 1024 * 1024)}, b"", 413, "body_too_large"),
    ],
)
def test_a_body_in_a_form_that_is_not_read_here(
    behind: Gateway, zoo_beside: Zoo, headers: dict[str, str], data: bytes, status: int, code: str
) -> None:
    before = len(zoo_beside.requests)
    answer = behind.request("POST", CHAT, raw=data, key=behind.key, headers=headers)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert len(zoo_beside.requests) == before


def test_a_body_of_fifty_megabytes_in_chunks_is_refused_on_the_way(behind: Gateway, zoo_beside: Zoo) -> None:
    before = len(zoo_beside.requests)
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    answer = behind.request(
        "POST", CHAT, raw=piece * 50 + b"0\r\n\r\n", key=behind.key,
        headers={"transfer-encoding": "chunked", "content-length": ""},
    )  # fmt: skip
    assert answer.status == 413
    assert len(zoo_beside.requests) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405), ("DELETE", "/v1/models", 405), ("POST", "/healthz", 405), ("GET", "//v1/models", 400),
        ("GET", "/v1//models", 400), ("GET", "/v1/../metrics", 400), ("GET", "/v1/%2e%2e/metrics", 400),
        ("GET", "/v1/models;x=1", 400), ("GET", "/nowhere", 404), ("GET", "/v1/models/none-such", 404),
        ("GET", "/health/none", 404),
    ],
)  # fmt: skip
def test_a_path_or_method_that_does_not_exist(behind: Gateway, method: str, path: str, status: int) -> None:
    answer = behind.request(method, path, key=behind.key)
    assert answer.status == status
    assert answer.header("x-request-id")
    if status == 405:
        assert answer.header("allow")
    assert b"Traceback" not in answer.body


def test_no_answer_was_a_failure_of_ours(behind: Gateway) -> None:
    assert '"level":"error"' not in behind.log()
    assert behind.key not in behind.log()
