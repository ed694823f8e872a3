"""What the bridge says of a finished request."""

from __future__ import annotations

import pytest

from hx_gateway.access.principal import KeyId, Principal, TenantId
from hx_gateway.events import Ending, RequestFinished
from hx_gateway.gateway.model_table import ModelTable
from hx_gateway.gateway.routes import ModelList, model_routes
from hx_gateway.http.bridge import MAX_ALTERNATIVES, _address, _record
from hx_gateway.pipeline.context import Context
from hx_gateway.services.upstream.base import Deployment, UpstreamKind
from hx_gateway.translate.openai import ModelRequest, Operation
from tests.unit.pipeline.doubles import context

CHAT = model_routes(ModelList(ModelTable(), None))[0]


class Exchange:
    """As much of an exchange as is asked."""

    status = 200
    bytes_sent = 3

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx


def event_of(ctx: Context, ending: Ending = Ending.COMPLETE) -> RequestFinished:
    return _record(Exchange(ctx), ending)  # type: ignore[arg-type]


def deployment(name: str) -> Deployment:
    return Deployment(name=name, kind=UpstreamKind.OPENAI, model="m", base_url="https://user:hidden@api.example.org/v1")


def called(*names: str) -> Context:
    ctx = context("/v1/chat/completions", spec=CHAT, headers=[(b"traceparent", b"00-a-b-01")])
    ctx.decoded = ModelRequest(Operation.CHAT, "fast", {})
    ctx.call = ModelRequest(Operation.CHAT, "big", {}, stream=True)
    ctx.candidates = tuple(deployment(name) for name in names)
    ctx.deployment = ctx.candidates[0]
    ctx.principal = Principal(key_id=KeyId("k"), tenant_id=TenantId("acme"), scopes=frozenset())
    return ctx


def test_a_call_tells_who_asked_for_what_and_who_answered() -> None:
    event = event_of(called("a", "b", "c"))
    assert (event.tenant_id, event.key_id, event.model_call, event.operation) == ("acme", "k", True, "chat")
    assert (event.requested_model, event.model, event.stream) == ("fast", "big", True)
    assert (event.upstream, event.alternatives, event.provider) == ("a", ("b", "c"), "openai")
    assert (event.upstream_address, event.traceparent) == ("api.example.org:443", "00-a-b-01")
    assert "hidden" not in repr(event)


def test_of_many_candidates_some_are_told() -> None:
    names = tuple(str(number) for number in range(40))
    assert event_of(called(*names)).alternatives == names[1 : MAX_ALTERNATIVES + 1]


def test_a_refusal_on_a_model_route_is_a_model_call_without_a_model() -> None:
    event = event_of(context("/v1/chat/completions", spec=CHAT), Ending.ERROR)
    assert (event.model_call, event.model, event.upstream, event.tenant_id) == (True, None, None, None)
    assert event_of(context()).model_call is False


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
        ("http://ollama", "ollama:80"),
        ("https://[2001:db8::1]/v1", "[2001:db8::1]:443"),
        ("https://u:p@h:8443/v1", "h:8443"),
        ("demo://hx/v1", None),
        ("", None),
        ("http://h:99999", None),
    ],
)
def test_an_address_is_host_and_port_and_no_more(base_url: str, address: str | None) -> None:
    assert _address(base_url) == address
