"""The command line's entry: which commands there are."""

from __future__ import annotations

import typer

from hx_gateway import __version__
from hx_gateway.cli import audit, cache, db, events, keys, spend, teams, tenants, users
from hx_gateway.cli.doctor import doctor
from hx_gateway.cli.registry.app import app as registry_app
from hx_gateway.cli.serve import serve
from hx_gateway.cli.smoke import smoke
from hx_gateway.cli.unwire import unwire
from hx_gateway.cli.wire import wire

app = typer.Typer(
    name="hx-gateway",
    help="Self-hosted control plane for AI: gateway, registry and observability in one program.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(smoke)
app.command()(doctor)
app.command()(wire)
app.command()(unwire)
app.add_typer(db.app, name="db")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.add_typer(teams.app, name="teams")
app.add_typer(users.app, name="users")
app.add_typer(tenants.app, name="tenants")
app.add_typer(spend.app, name="spend")
app.add_typer(audit.app, name="audit")
app.add_typer(cache.app, name="cache")
app.add_typer(registry_app, name="registry")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line."""
    app()
