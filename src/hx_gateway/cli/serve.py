"""``hx-gateway serve``: start the stores that have no URL, bind the port, serve until told to stop."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from hx_gateway import __version__
from hx_gateway.app import GatewayApp, build_app
from hx_gateway.cli.embedded import EmbeddedStores
from hx_gateway.cli.server import calm_collector, make_server
from hx_gateway.cli.start import Installation, fail, open_installation, read_settings
from hx_gateway.cli.workers import serve_with_workers
from hx_gateway.errors import HXError
from hx_gateway.gateway.model_config import ModelConfigError
from hx_gateway.log import configure_logging
from hx_gateway.services.dsn import place_of
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.upstream.base import UpstreamKind
from hx_gateway.settings import Settings, SettingsError
from hx_gateway.telemetry import prepare_multiprocess


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (WRAPPER_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (WRAPPER_PORT).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where state is kept (HX_DATA_DIR).")] = None,
    config: Annotated[Path | None, typer.Option(help="Models in LiteLLM's format (HX_MODEL_CONFIG).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve (HX_WORKERS).")] = None,
    env_file: Annotated[list[Path] | None, typer.Option(help="Read settings from this file too.")] = None,
) -> None:
    """Run the gateway."""
    loaded = read_settings(
        tuple(env_file or ()),
        host=host,
        port=port,
        data_dir=data_dir,
        model_config_file=config,
        workers=workers,
    )
    installation = open_installation(loaded)
    settings = installation.settings
    configure_logging(level=settings.log_level, style=settings.log_format)
    listener = bind(settings)
    stores = EmbeddedStores(settings, installation.data_dir, notify=_say)
    try:
        settings = stores.start()
        if settings.workers == 1:
            _serve_alone(settings, installation, listener, stores)
        else:
            os.environ.update(prepare_multiprocess(installation.data_dir / "metrics"))
            _announce(build_app(settings), settings, installation, listener)
            serve_with_workers(settings, listener, stores.check)
    except EmbeddedError as error:
        fail(str(error))
    except (ModelConfigError, SettingsError) as error:
        fail(*str(error).splitlines())
    except KeyboardInterrupt:
        pass
    finally:
        stores.stop()


def bind(settings: Settings) -> socket.socket:
    """Return a bound socket, or leave with what to do about the address."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "the port is taken: stop what listens there, or set WRAPPER_PORT to another port",
            errno.EADDRNOTAVAIL: "this machine does not have that address: set WRAPPER_HOST to one of its own",
            errno.EACCES: "that port needs privileges: set WRAPPER_PORT to one above 1023",
        }.get(error.errno or 0, error.strerror)
        fail(f"cannot listen on {settings.host}:{settings.port}: {reason}.", code=1)
    except OverflowError:
        fail(f"cannot listen on port {settings.port}: it is not a port.")
    listener.set_inheritable(True)
    return listener


def _serve_alone(
    settings: Settings, installation: Installation, listener: socket.socket, stores: EmbeddedStores
) -> None:
    app = build_app(settings)
    server = make_server(settings, app, on_second=stores.check)
    _announce(app, settings, installation, listener)
    calm_collector()
    server.run(sockets=[listener])


def _announce(app: GatewayApp, settings: Settings, installation: Installation, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}"
    _say(f"HX Gateway {__version__} on {url}")
    _say(f"  data       {installation.data_dir}")
    if installation.key_is_new:
        assert settings.admin_key is not None
        _say(f"  admin key  {settings.admin_key.get_secret_value()}")
        _say(f"             shown this once; kept in {installation.data_dir / 'admin.key'}")
    demo = [name for name in app.models.names() if _is_demo(app, name)]
    others = [name for name in app.models.names() if name not in demo]
    if settings.litellm_base_url:
        _say(f"  upstream   {place_of(settings.litellm_base_url)}")
    if others:
        _say(f"  models     {', '.join(others[:8])}{' …' if len(others) > 8 else ''}")
    if demo:
        _say(f"  demo       {', '.join(demo)} (built-in demo models; HX_DEMO=false turns them off)")
    for warning in installation.loaded.warnings:
        _say(f"  warning    {warning}")


def _is_demo(app: GatewayApp, name: str) -> bool:
    try:
        return app.models.resolve(name)[0].kind is UpstreamKind.DEMO
    except HXError:
        return False


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
