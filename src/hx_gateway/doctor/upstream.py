"""Models: the file of them, who serves them, and the pair of files that the gateway itself serves with."""

from __future__ import annotations

import ssl

from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem, unreachable
from hx_gateway.gateway.model_config import ModelConfigError, load_model_config
from hx_gateway.services.dsn import place_of
from hx_gateway.services.upstream.base import Timeouts, UpstreamError, UpstreamRequest
from hx_gateway.services.upstream.http_client import HttpUpstream

MAX_ANSWER_BYTES = 1024 * 1024
_TIMEOUTS = Timeouts(connect=2, head=4, idle=2, total=4)


def examine_models(around: Surroundings) -> list[Finding]:
    """Look at the file of models, where one is set."""
    path = around.settings.model_config_file
    if path is None:
        return []
    try:
        config = load_model_config(path, around.environ, direct=around.settings.litellm_base_url is None)
    except ModelConfigError as error:
        return [problem(Subject.MODELS, line, "Correct the file.") for line in str(error).splitlines()]
    notes = [note(Subject.MODELS, warning) for warning in config.warnings]
    return [ok(Subject.MODELS, f"{len(config.names)} in {path}"), *notes]


async def examine_upstream(around: Surroundings) -> list[Finding]:
    """Look whether the default upstream lists its models for us."""
    base = around.settings.litellm_base_url
    if base is None:
        return []
    try:
        status, _ = await ask_upstream(around, base, "/v1/models")
    except UpstreamError as error:
        return [unreachable(Subject.UPSTREAM, place_of(base), type(error).__name__, "LITELLM_BASE_URL")]
    if status in (401, 403):
        detail = f"{place_of(base)} refuses our credential"
        return [problem(Subject.UPSTREAM, detail, "Correct LITELLM_API_KEY.")]
    if status != 200:
        return [problem(Subject.UPSTREAM, f"/v1/models answers {status}", "See the upstream's log.")]
    return [ok(Subject.UPSTREAM, place_of(base))]


async def ask_upstream(around: Surroundings, base: str, path: str) -> tuple[int, bytes]:
    """Return status and body, as far as :data:`MAX_ANSWER_BYTES`, of a GET below ``base``. Raises ``UpstreamError``."""
    headers = {"accept": "application/json"}
    if around.settings.litellm_api_key is not None:
        headers["authorization"] = f"Bearer {around.settings.litellm_api_key.get_secret_value()}"
    root = base.rstrip("/").removesuffix("/v1")
    client = HttpUpstream()
    try:
        call = client.call(UpstreamRequest(method="GET", url=f"{root}{path}", headers=headers, timeouts=_TIMEOUTS))
        head = await call.head()
        body = bytearray()
        async for chunk in call.chunks():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                break
        return head.status, bytes(body[:MAX_ANSWER_BYTES])
    finally:
        await client.close()


def examine_tls(around: Surroundings) -> list[Finding]:
    """Look whether certificate and key are a pair."""
    settings = around.settings
    if settings.tls_cert is None or settings.tls_key is None:
        return []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        return [problem(Subject.TLS, f"the pair cannot be used: {error}", "Correct HX_TLS_CERT and HX_TLS_KEY.")]
    return [ok(Subject.TLS, str(settings.tls_cert))]
