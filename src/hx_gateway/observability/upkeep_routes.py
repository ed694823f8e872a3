"""The handlers of the record's upkeep: retention, and the dead letters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from hx_gateway.errors import InvalidRequest, NotFound
from hx_gateway.http.query_parameters import read_parameters, time_parameter
from hx_gateway.migrations.runner import DRIVER_ERRORS
from hx_gateway.observability.answers import json_reply
from hx_gateway.observability.dead_letters import DeadLetters, Replay, check_ids
from hx_gateway.observability.filters import DEFAULT_LIMIT, MAX_LIMIT, check_limit, check_text, check_window
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.parameters import TENANT, count_parameter, flag_parameter, tenant_of, whole_number
from hx_gateway.observability.tables import retention_of
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.services.failures import dependency_error

MAX_BODY_BYTES = 1024 * 1024
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RecordUpkeep:
    """Handlers over one layer. ``now`` is the wall clock."""

    def __init__(
        self, layer: DatabaseIntegrationLayer, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._layer = layer
        self._letters = DeadLetters(layer)
        self._now = now

    async def retention(self, ctx: Context) -> Reply:
        """Remove what is past its retention, or say with ``dry_run`` from when on records would stay."""
        parameters = read_parameters(ctx, ("dry_run",))
        retention = retention_of(self._layer.config.retention_days)
        now = self._now()
        cutoffs = {table: now - kept for table, kept in retention.items()}
        if flag_parameter(parameters, "dry_run"):
            return json_reply({"dry_run": True, "cutoffs": cutoffs})
        try:
            removed = await self._layer.remove_old()
        except DRIVER_ERRORS as error:
            raise dependency_error("PostgreSQL", error) from error
        shown = {table: {"rows": gone.rows, "partitions": gone.partitions} for table, gone in removed.items()}
        return json_reply({"dry_run": False, "cutoffs": cutoffs, "removed": shown})

    async def list_letters(self, ctx: Context) -> Reply:
        """Answer with a page of dead letters, newest first, without their rows."""
        parameters = read_parameters(ctx, ("target", "sqlstate", "replayed", "limit", "cursor", TENANT))
        limit = count_parameter(parameters, "limit", DEFAULT_LIMIT)
        check_limit(limit, MAX_LIMIT)
        for name in ("target", "sqlstate"):
            if name in parameters:
                check_text(name, parameters[name])
        before = parameters.get("cursor")
        letters, following = await self._letters.page(
            tenant_of(ctx, parameters),
            before=None if before is None else whole_number("cursor", before),
            limit=limit,
            target=parameters.get("target"),
            sqlstate=parameters.get("sqlstate"),
            replayed=flag_parameter(parameters, "replayed"),
        )
        return json_reply({"items": letters, "next_cursor": None if following is None else str(following)})

    async def one_letter(self, ctx: Context) -> Reply:
        """Answer with a dead letter and the row that it holds."""
        parameters = read_parameters(ctx, (TENANT,))
        text = ctx.path_params["id"]
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise NotFound(f"There is no dead letter {text[:40]!r}.", param="id")
        return json_reply(await self._letters.one(tenant_of(ctx, parameters), int(text)))

    async def replay(self, ctx: Context) -> Reply:
        """Send dead letters the way of new events again: those named, or those of a table that were not yet."""
        tenant = tenant_of(ctx, read_parameters(ctx, (TENANT,)))
        fields = await _read_object(ctx, ("ids", "target", "after"))
        if ("ids" in fields) == ("target" in fields):
            raise InvalidRequest("Give either ids or target.", param="ids")
        if "ids" in fields:
            return _replay_reply(await self._letters.replay_ids(tenant, check_ids(fields["ids"])))
        check_text("target", fields["target"])
        after = fields.get("after", 0)
        if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after < 1 << 63:
            raise InvalidRequest(f"after must be the id of a dead letter, not {after!r:.40}.", param="after")
        return _replay_reply(await self._letters.replay_target(tenant, fields["target"], after=after))

    async def purge(self, ctx: Context) -> Reply:
        """Delete dead letters: those named, or those from before a moment. In parameters, or in a body."""
        parameters = read_parameters(ctx, ("ids", "older_than", TENANT))
        tenant = tenant_of(ctx, parameters)
        fields = await _read_object(ctx, ("ids", "older_than"))
        if "ids" in parameters:
            fields["ids"] = [whole_number("ids", part.strip()) for part in parameters["ids"].split(",")]
        if "older_than" in parameters:
            fields["older_than"] = parameters["older_than"]
        if ("ids" in fields) == ("older_than" in fields):
            raise InvalidRequest("Give either ids or older_than: all at once is older_than with the present.")
        older_than = None
        if "older_than" in fields:
            check_text("older_than", fields["older_than"])
            older_than = time_parameter(fields, "older_than")
            check_window("older_than", older_than, "older_than", older_than)
        ids = check_ids(fields["ids"]) if "ids" in fields else None
        return json_reply({"deleted": await self._letters.purge(tenant, ids=ids, older_than=older_than)})


async def _read_object(ctx: Context, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the body's fields; none where there is no body."""
    body = await ctx.body.read(MAX_BODY_BYTES)
    if not body:
        return {}
    try:
        fields = msgspec.json.decode(body)
    except _UNREADABLE as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be an object.", code="not_an_object")
    for name in fields:
        if name not in known:
            raise InvalidRequest(f"{name[:64]!r} is not known here: send {' or '.join(known)}.", param=name[:64])
    return fields


def _replay_reply(result: Replay) -> Reply:
    return json_reply({"replayed": result.replayed, "skipped": result.skipped, "next_after": result.next_after})
