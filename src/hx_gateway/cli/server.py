"""uvicorn, configured: our protocol at the edge, our way to stop, none of its logging."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import uvicorn

from hx_gateway.app import GatewayApp
from hx_gateway.http.protocol import EdgeLimits, edge_protocol
from hx_gateway.http.server import GatewayServer
from hx_gateway.settings import Settings

BACKLOG = 2048
# What is left when the drain time is over has been told to stop; this is for it to do so.
LAST_SECONDS = 5
# Objects until the collector looks. What a batch of events makes is gone by itself; to look at it again and again costs
# a fifth of the time that taking it does.
COLLECT_AFTER = (50_000, 20, 100)


def calm_collector() -> None:
    """Let the garbage collector pass over what lives as long as the process, and come by less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def make_server(settings: Settings, app: GatewayApp, *, on_second: Callable[[], None] | None = None) -> GatewayServer:
    """Return the server of ``app``; ``on_second`` is called once a second from its loop."""
    limits = EdgeLimits(max_connections=settings.max_connections)
    config = uvicorn.Config(
        app,
        http=edge_protocol(limits, lambda code: app.metrics.edge_refusals.labels(code).inc()),
        ws="none",
        lifespan="on",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=LAST_SECONDS,
        backlog=BACKLOG,
    )
    return GatewayServer(
        config,
        drain=app.drain,
        drain_seconds=settings.drain_seconds,
        pre_stop_seconds=settings.pre_stop_seconds,
        on_second=on_second,
    )
