from __future__ import annotations

from typing import Any

import pytest

from hx_gateway.services.egress.errors import EgressDenied
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.egress.url import NETWORK_SCHEMES
from tests.fixtures.egress import NAMES, TLS, FixedDns
from tests.fixtures.egress_corpus import SPELLINGS
from tests.integration.egress.conftest import MakeGuard
from tests.integration.egress.servers import saying, serving

OK = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def test_no_spelling_of_the_corpus_connects_anywhere(connected: list[Any], guard: MakeGuard) -> None:
    async with serving(OK) as canary, serving(OK, host="::1", port=canary.port) as canary6:
        policy = EgressPolicy(
            schemes=NETWORK_SCHEMES, ports=(*EgressPolicy().ports, range(canary.port, canary.port + 1))
        )
        way_out = EgressGuard(policy, resolver=FixedDns(NAMES), ssl_context=TLS)
        for _, url in SPELLINGS:
            with pytest.raises(EgressDenied):
                await way_out.request(
                    await way_out.check(url.replace("{port}", str(canary.port)), schemes=NETWORK_SCHEMES)
                )
        assert (connected, canary.connections, canary6.connections) == ([], 0, 0)
        # The canary can be reached, and the spies see it.
        way_out = guard()
        assert (await way_out.request(await way_out.check(f"http://127.0.0.1:{canary.port}/"))).body == b"ok"
        assert (connected, canary.connections) == ([("127.0.0.1", canary.port)], 1)
