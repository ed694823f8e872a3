"""Which commands there are below ``hx-gateway registry``."""

from __future__ import annotations

import typer

from hx_gateway.cli.registry import checking, files, graph, services, standing, sync, tools, watch

app = typer.Typer(help="The services of a running gateway's registry.", no_args_is_help=True)
app.command("list")(services.list_services)
app.command()(services.show)
app.command()(services.add)
app.command("set")(services.set_fields)
app.command()(services.delete)
app.command()(services.restore)
app.command()(standing.enable)
app.command()(standing.disable)
app.command()(standing.maintenance)
app.command()(checking.check)
app.command()(standing.heartbeat)
app.command()(standing.report)
app.command("import")(files.import_services)
app.command()(files.export)
app.command()(sync.sync)
app.command()(graph.graph)
app.command()(watch.watch)
app.command()(services.stats)
app.command()(tools.tools)
