"""``hx-gateway keys import``: takes keys over from elsewhere, so that clients go on with the keys they have."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from hx_gateway.access.imports import ImportedKey, UnreadableKey, read_litellm_keys
from hx_gateway.admin.fields import MAX_LIFE_SECONDS
from hx_gateway.cli.access_options import JsonOption, TenantOption, pairs_of
from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, Refused, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import limits_text, print_json
from hx_gateway.kit.money import usd_text
from hx_gateway.migrations.runner import DRIVER_ERRORS
from hx_gateway.services.base import DependencyError
from hx_gateway.services.dsn import DsnError, place_of
from hx_gateway.services.failures import classify
from hx_gateway.services.postgres import PostgresService

MANY = 20
ACQUIRE_SECONDS = 5.0
LONGEST = timedelta(seconds=MAX_LIFE_SECONDS) - timedelta(days=1)
TABLE = '"LiteLLM_VerificationToken"'
_IS_THERE = "SELECT to_regclass($1::text) IS NOT NULL"
_ROWS = f"SELECT * FROM {TABLE} ORDER BY token"  # noqa: S608 - the table is a constant
# The driver gives JSON as text, and so do some exports.
_JSON_COLUMNS = ("aliases", "metadata", "model_max_budget")
# What makes a key may more here than there, where it is set.
_NOT_TAKEN = {
    "budget_id": "its budget of LiteLLM's own table is not taken over",
    "model_max_budget": "its budgets for single models are not taken over",
}
_NOT_TAKEN_METADATA = {
    "model_rpm_limit": "its limits for single models are not taken over",
    "model_tpm_limit": "its limits for single models are not taken over",
}

app = typer.Typer(help="Take keys over from elsewhere.", no_args_is_help=True)

SourceOption = Annotated[
    str | None, typer.Option("--from-url", help="LiteLLM's database, as postgresql://…; it is only read.")
]
FileOption = Annotated[Path | None, typer.Option("--file", help="Its rows in a file: a list of objects, as JSON.")]
TeamMapOption = Annotated[
    list[str] | None, typer.Option("--team-map", help="A team there and the one here, as old=tm-…; repeatable.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be taken over, and ask nobody.")]


class State(StrEnum):
    """What became of a row."""

    NEW = "new"
    THERE_ALREADY = "there_already"
    REFUSED = "refused"
    LEFT_OUT = "left_out"
    PLANNED = "planned"


_STYLES = {State.NEW: "green", State.REFUSED: "red", State.LEFT_OUT: "yellow", State.PLANNED: "cyan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A key to take over. ``body`` is what the gateway is asked; ``reason``: why it is not asked at all."""

    row: int
    name: str
    blocked: bool
    body: Mapping[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()
    reason: str = ""

    @property
    def label(self) -> str:
        """What an error names the row by."""
        return f"row {self.row} ({self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A candidate and what became of it; ``id`` is that of the new key."""

    candidate: Candidate
    state: State
    id: str | None = None
    reason: str = ""


@app.command()
def litellm(
    from_url: SourceOption = None,
    file: FileOption = None,
    tenant: TenantOption = None,
    team_map: TeamMapOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Take over the keys of a LiteLLM database. Safe to run again: a key is taken over once."""
    rows = _rows(from_url, file)
    teams = pairs_of("--team-map", team_map) or {}
    candidates = _candidates(rows, tenant, teams, datetime.now(UTC))
    for team in sorted(teams.keys() - {row.get("team_id") for row in rows}):
        typer.echo(f"hx-gateway: --team-map: no key is of the team {plain(team)!r}", err=True)
    if dry_run:
        outcomes = [
            Outcome(candidate=one, state=State.LEFT_OUT if one.reason else State.PLANNED, reason=one.reason)
            for one in candidates
        ]
    else:
        outcomes = run_with(url, key, lambda gateway: _take_all(gateway, candidates))
    _print(outcomes, as_json=as_json)
    if any(one.state is State.REFUSED for one in outcomes):
        raise typer.Exit(EXIT_FAILED)


def _rows(from_url: str | None, file: Path | None) -> list[dict[str, Any]]:
    """Return the rows of the one source that is given, or leave with what is wrong with it."""
    if from_url is not None and file is None:
        found: Any = _database_rows(from_url)
    elif file is not None and from_url is None:
        found = _file_rows(file)
    else:
        fail("give --from-url with LiteLLM's database, or --file with its rows.", code=EXIT_FAILED)
    return [_decoded(row, number) for number, row in enumerate(found, start=1)]


def _database_rows(url: str) -> list[dict[str, Any]]:
    try:
        rows = asyncio.run(_select(url))
    except DsnError as error:
        fail(f"--from-url: {error}.", code=EXIT_FAILED)
    except DependencyError as error:
        fail(f"the database at {place_of(url)} cannot be read: {error.kind.value}.", code=EXIT_FAILED)
    except DRIVER_ERRORS as error:
        fail(f"the database at {place_of(url)} failed ({classify(error).kind}): {error}", code=EXIT_FAILED)
    if rows is None:
        fail(f"the database at {place_of(url)} has no table {TABLE}: is it LiteLLM's?", code=EXIT_FAILED)
    return rows


async def _select(url: str) -> list[dict[str, Any]] | None:
    """Return the rows of keys, ``None`` where there is no such table."""
    # LiteLLM's URLs are Prisma's, which name the schema in a parameter of their own.
    schema = parse_qs(urlsplit(url).query).get("schema", ["public"])[0].replace('"', '""')
    settings = {"search_path": f'"{schema}"', "default_transaction_read_only": "on"}
    source = PostgresService(url, max_size=1, acquire_timeout=ACQUIRE_SECONDS, server_settings=settings)
    async with source, source.acquire() as connection:
        if not await connection.fetchval(_IS_THERE, TABLE):
            return None
        return [dict(row) for row in await connection.fetch(_ROWS)]


def _file_rows(file: Path) -> list[Any]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"--file {str(file)!r}: {error.strerror}.", code=EXIT_FAILED)
    except ValueError as error:
        fail(f"--file {str(file)!r} is not JSON: {error}", code=EXIT_FAILED)
    if not isinstance(rows, list):
        fail(f"--file {str(file)!r} is not a list of rows.", code=EXIT_FAILED)
    return rows


def _decoded(row: object, number: int) -> dict[str, Any]:
    """Return a row with its JSON read."""
    if not isinstance(row, dict):
        fail(f"row {number} is no object.", code=EXIT_FAILED)
    read = dict(row)
    for column in _JSON_COLUMNS:
        if isinstance(read.get(column), str):
            try:
                read[column] = json.loads(read[column])
            except ValueError:
                fail(f"row {number}: {column} is not JSON.", code=EXIT_FAILED)
    return read


def _candidates(
    rows: Sequence[Mapping[str, Any]], tenant: str | None, teams: Mapping[str, str], now: datetime
) -> list[Candidate]:
    """Return what is to be taken over, or leave with the first row that cannot be."""
    try:
        keys = read_litellm_keys(rows)
    except UnreadableKey as error:
        fail(f"{plain(str(error))}. Nothing was taken over.", code=EXIT_FAILED)
    pairs = enumerate(zip(rows, keys, strict=True), start=1)
    return [
        Candidate(
            row=number,
            name=key.name,
            blocked=key.blocked,
            body=_body(key, tenant, teams.get(key.source_team or ""), now),
            warnings=tuple(dict.fromkeys([*key.warnings, *_losses(row, key, teams, now)])),
            reason=f"expired on {key.expires_at:%Y-%m-%d}" if key.expires_at and key.expires_at <= now else "",
        )
        for number, (row, key) in pairs
    ]


def _body(key: ImportedKey, tenant: str | None, team: str | None, now: datetime) -> dict[str, Any]:
    noted = {"litellm_team_id": None if team else key.source_team, "litellm_user_id": key.source_user}
    given = {
        "tenant_id": tenant,
        "team_id": team,
        "models": None if key.models is None else list(dict.fromkeys(key.models)),
        "allowed_routes": None if key.allowed_routes is None else list(key.allowed_routes),
        "expires_at": min(key.expires_at, now + LONGEST).isoformat() if key.expires_at else None,
    }
    return {
        "name": key.name,
        "imported_sha256": key.sha256.hex(),
        "last_four": key.last_four,
        "aliases": dict(key.aliases),
        "limits": dict(key.limits),
        "budgets": [{"limit_usd": usd_text(one.limit_nano), "period": one.period.value} for one in key.budgets],
        "metadata": {**key.metadata, **{name: value for name, value in noted.items() if value}},
        "tags": list(dict.fromkeys(key.tags)),
        **{name: value for name, value in given.items() if value is not None},
    }


def _losses(row: Mapping[str, Any], key: ImportedKey, teams: Mapping[str, str], now: datetime) -> Iterable[str]:
    """Yield what held the key there and does not hold it here."""
    for column, warning in _NOT_TAKEN.items():
        if row.get(column):
            yield warning
    for member, warning in _NOT_TAKEN_METADATA.items():
        if key.metadata.get(member):
            yield warning
    if key.source_team and key.source_team not in teams:
        yield f"the models, limits and budget of its team {key.source_team!r} do not hold it here: see --team-map"
    if key.source_user and not key.source_team:
        yield f"the models, limits and budget of its user {key.source_user!r} do not hold it here"
    if key.expires_at and key.expires_at > now + LONGEST:
        yield f"it ends on {now + LONGEST:%Y-%m-%d}: within ten years"


async def _take_all(gateway: GatewayClient, candidates: Sequence[Candidate]) -> list[Outcome]:
    """Ask for one key after the other. Raises ``Refused`` where the next ones would be refused alike."""
    outcomes: list[Outcome] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=len(candidates) < MANY or not console.is_terminal) as progress:
        for candidate in progress.track(candidates, description="keys"):
            try:
                outcomes.append(await _take(gateway, candidate))
            except Refused as refused:
                new = sum(one.state is State.NEW for one in outcomes)
                raise Refused(f"{candidate.label}: {refused} Taken over before it: {new}.") from refused
    return outcomes


async def _take(gateway: GatewayClient, candidate: Candidate) -> Outcome:
    if candidate.reason:
        return Outcome(candidate=candidate, state=State.LEFT_OUT, reason=candidate.reason)
    try:
        made = await gateway.ask("POST", "/v1/keys", None, candidate.body)
    except Refused as refused:
        match str(refused).partition(":")[0]:
            case "409":
                # Keys share names: only the key itself can be there already.
                return Outcome(candidate=candidate, state=State.THERE_ALREADY)
            case "400" | "404" | "413" | "422":
                return Outcome(candidate=candidate, state=State.REFUSED, reason=str(refused))
            case _:
                raise
    if candidate.blocked:
        try:
            await gateway.ask("POST", f"/v1/keys/{made['id']}/block")
        except Refused as refused:
            reason = f"taken over and NOT blocked, as it was there: {refused}"
            return Outcome(candidate=candidate, state=State.REFUSED, id=made["id"], reason=reason)
    return Outcome(candidate=candidate, state=State.NEW, id=made["id"])


def _print(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    counts = Counter(one.state for one in outcomes)
    if as_json:
        print_json({"counts": {state.value: counts[state] for state in State}, "keys": list(map(_told, outcomes))})
        return
    changed = [one for one in outcomes if one.state is not State.THERE_ALREADY]
    if changed:
        Console().print(_table(changed))
    if counts[State.PLANNED] or not (counts[State.NEW] + counts[State.THERE_ALREADY] + counts[State.REFUSED]):
        typer.echo(f"{counts[State.PLANNED]} to take over, {counts[State.LEFT_OUT]} left out; nothing was changed")
        return
    unchanged = "" if counts[State.NEW] + counts[State.REFUSED] else "; nothing was changed"
    left_out = f", {counts[State.LEFT_OUT]} left out" if counts[State.LEFT_OUT] else ""
    typer.echo(
        f"{counts[State.NEW]} new, {counts[State.THERE_ALREADY]} there already, {counts[State.REFUSED]} refused"
        f"{left_out}{unchanged}"
    )


def _told(outcome: Outcome) -> dict[str, Any]:
    candidate = outcome.candidate
    return {
        "row": candidate.row,
        "name": candidate.name,
        "last_four": candidate.body["last_four"],
        "state": outcome.state.value,
        "id": outcome.id,
        "blocked": candidate.blocked,
        "reason": outcome.reason or None,
        "warnings": list(candidate.warnings),
    }


def _table(outcomes: Iterable[Outcome]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("row", "name", "end", "limits", "budgets", "state", "id", "what to know"):
        shown.add_column(name, no_wrap=name == "id", overflow="fold")
    for one in outcomes:
        body = one.candidate.body
        budgets = ", ".join([f"${budget['limit_usd']}/{budget['period']}" for budget in body["budgets"]])
        blocked = ("blocked",) if one.candidate.blocked else ()
        notes = "; ".join([*([one.reason] if one.reason else ()), *blocked, *one.candidate.warnings])
        cells = (str(one.candidate.row), one.candidate.name, body["last_four"], limits_text(body["limits"]), budgets)
        state = Text(one.state.value.replace("_", " "), _STYLES.get(one.state, ""))
        shown.add_row(*[Text(plain(cell)) for cell in cells], state, Text(plain(one.id)), Text(plain(notes)))
    return shown
