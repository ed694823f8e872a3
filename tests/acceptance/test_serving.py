"""How the server is reached: TLS, browsers, proxies; and clients that try again."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
import trustme

from tests.fixtures.gateway import Gateway
from tests.fixtures.zoo import Zoo


def test_tls_is_served_with_the_pair_given(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    environ = {"HX_TLS_CERT": str(tmp_path / "cert.pem"), "HX_TLS_KEY": str(tmp_path / "key.pem")}
    gateway = start_gateway(environ, wait=False)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    url = f"https://localhost:{gateway.port}/healthz"

    def served() -> bool:
        with urllib.request.urlopen(url, context=trusting, timeout=5) as answer:
            return bool(json.load(answer) == {"status": "ok"})

    gateway.wait_until(served)


def test_health_details_are_not_for_those_who_come_through_a_proxy(gateway: Gateway) -> None:
    for path in ("/metrics", "/health/db", "/health"):
        assert gateway.get(path).status in (200, 503)
        forwarded = {"x-forwarded-for": "127.0.0.1"}
        assert gateway.request("GET", path, headers=forwarded).status == 401
        assert gateway.request("GET", path, headers=forwarded, key=gateway.key).status == 200


def test_browsers_may_not_call_by_default(gateway: Gateway) -> None:
    headers = {"origin": "https://evil.example.org", "access-control-request-method": "POST"}
    answer = gateway.request("OPTIONS", "/v1/chat/completions", headers=headers)
    assert answer.status == 405
    assert answer.header("access-control-allow-origin") is None


def test_an_origin_that_is_listed_may_call(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway({"HX_CORS_ORIGINS": "https://app.example.org"})
    headers = {"origin": "https://app.example.org"}
    answer = gateway.request("GET", "/v1/models", headers=headers, key=gateway.key)
    assert answer.header("access-control-allow-origin") == "https://app.example.org"


def test_a_client_tries_again_what_is_worth_it(start_gateway: Callable[..., Gateway], zoo_beside: Zoo) -> None:
    gateway = start_gateway({"LITELLM_BASE_URL": zoo_beside.url, "HX_UPSTREAM_HEAD_TIMEOUT": "0.3"})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=1) as client:
        before = len(zoo_beside.requests)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="zoo:status_500", messages=[{"role": "user", "content": "x"}])
        assert len(zoo_beside.requests) == before + 2
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="zoo:hang_before_head", messages=[{"role": "user", "content": "x"}])
        assert caught.value.status_code == 504
        assert len(zoo_beside.requests) == before + 3


def test_a_stream_that_breaks_off_raises_in_the_client(start_gateway: Callable[..., Gateway], zoo_beside: Zoo) -> None:
    gateway = start_gateway({"LITELLM_BASE_URL": zoo_beside.url})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="zoo:close_mid_stream", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(openai.APIError, match="closed the connection"):
            list(stream)


def test_the_admin_key_is_made_once_and_is_in_no_log(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway({"HX_ADMIN_KEY": ""}, wait=False)
    assert gateway.process is not None
    assert gateway.process.wait(30) == 78
    assert "HX_ADMIN_KEY has 0 characters" in gateway.log()
    del gateway.environ["HX_ADMIN_KEY"]
    gateway.start()
    key = (gateway.data_dir / "admin.key").read_text().strip()
    assert gateway.get("/v1/models", key=key).status == 200
    assert gateway.log().count(key) == 1
    gateway.stop()
    gateway.start()
    assert gateway.get("/v1/models", key=key).status == 200
    assert gateway.log().count(key) == 1
