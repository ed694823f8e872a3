"""``smoke`` asks every route of administrators that it can ask without changing anything."""

from __future__ import annotations

from pathlib import Path

from hx_gateway.access.principal import Scope
from hx_gateway.admin.router import ADMINS
from hx_gateway.app import build_app
from hx_gateway.cli.smoke_checks import ADMIN_ROUTES
from hx_gateway.pipeline.routes import needs
from hx_gateway.registry.api.router import SYNC_READ
from hx_gateway.settings import Settings

# It reads the whole log, which takes as long as the log is.
LEFT_OUT = {"/v1/audit/check"}
POLICIES = (ADMINS, SYNC_READ, needs(Scope.ADMIN), needs(Scope.SPEND_READ))


def test_the_admin_routes_are_those_of_the_application(tmp_path: Path) -> None:
    # Nothing is opened: a gateway that has a database has all routes.
    settings = Settings(PG_URL="postgresql://hx@127.0.0.1:1/hx", HX_DATA_DIR=str(tmp_path))
    there = {
        route.path
        for route in build_app(settings).pipeline.routes.routes
        if "GET" in route.methods and route.policy in POLICIES and "{" not in route.path
    }
    assert set(ADMIN_ROUTES) == there - LEFT_OUT
