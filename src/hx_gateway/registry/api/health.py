"""The routes of what probes find: how a service is and was, and probes that somebody asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from hx_gateway.access.errors import InvalidField
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Asks, answer, encoded
from hx_gateway.registry.api.durations import Duration
from hx_gateway.registry.api.parameters import Instant
from hx_gateway.registry.api.schemas import CheckAsked, CheckMany, CheckOutcome, ServiceHealth
from hx_gateway.registry.api.services import InTenant
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.probing import Level, SeriesMetric

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
MOST_HISTORY = timedelta(days=7)
# No probe was made before.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
DEFAULT_STEP = timedelta(minutes=5)
SERIES_STEP = timedelta(hours=1)
MAX_PERIODS = 2100
_LEVELS = {"l1": Level.REACHABLE, "l2": Level.READY}
_SUMMARISED = ("by_status", "required", "required_not_healthy", "flapping", "stale")


class HistoryOfHealthQuery(InTenant):
    """From when until when, in periods of which length: the last day in periods of five minutes unless given."""

    since: Instant | None = Field(None, alias="from")
    until: Instant | None = Field(None, alias="to")
    bucket: Duration = DEFAULT_STEP


class CheckQuery(InTenant):
    """How a service is probed: on a level where its probe knows both, as usual unless given."""

    level: Literal["l1", "l2"] | None = Field(
        None, description="`l1`: something takes the connection. `l2`: it answers as MCP has it."
    )
    wait: bool = Field(True, description="`false`: the answer comes at once, and the probe is made next.")


class Period(BaseModel):
    """What probes found from ``start`` on. ``uptime`` is successes over probes; times of answers are milliseconds."""

    start: datetime
    successes: int
    failures: int
    uptime: float | None
    response_ms_mean: float | None
    response_ms_max: float | None
    response_ms_p50: float | None
    response_ms_p95: float | None


class Periods(BaseModel):
    """Periods with probes, the oldest first."""

    items: list[Period]


class SeriesQuery(HistoryOfHealthQuery):
    """What of, from when until when, in periods of which length: the last day by the hour unless given."""

    metric: SeriesMetric
    bucket: Duration = SERIES_STEP


class Moment(BaseModel):
    """The value of the period from ``start`` on."""

    start: datetime
    value: float | None


class Series(BaseModel):
    """Periods with probes, the oldest first; times of answers are milliseconds, rates from 0 to 1.

    ``services_at_most``: how many services it is of at most. Of more, some were looked at.
    """

    metric: SeriesMetric
    services_at_most: int
    items: list[Moment]


class Summary(BaseModel):
    """How a tenant's services are together.

    ``required_unhealthy`` names at most 50 required services that are unhealthy, ``stale`` counts what was not seen for
    15 minutes, or never. ``self_preservation`` is this worker's.
    """

    by_status: dict[str, int]
    required: int
    required_not_healthy: int
    required_unhealthy: list[str]
    flapping: int
    stale: int
    self_preservation: bool


@router.get("/services/{ref}/health", response_model=ServiceHealth)
async def get_health(ref: str, ask: Asks, where: Where) -> Response:
    """Show how a service is, and why."""
    return answer((await ask.registry.standing.health(ask.actor, ref, tenant_id=where.tenant_id)).to_dict())


@router.post(
    "/services/{ref}/check",
    response_model=ServiceHealth,
    responses={202: {"model": CheckAsked, "description": "It is probed next, and not waited for."}},
)
async def check_service(ref: str, ask: Asks, how: Annotated[CheckQuery, Query()]) -> Response:
    """Probe a service now, and show how it is then. It is one finding more: a status changes no sooner."""
    if not how.wait:
        if how.level is not None:
            raise InvalidField("level: goes with wait=true, for its answer is all that comes of it.", param="level")
        return answer(await ask.registry.checks.ask_one(ask.actor, ref, tenant_id=how.tenant_id), status=202)
    level = None if how.level is None else _LEVELS[how.level]
    state = await ask.registry.standing.check(ask.actor, ref, tenant_id=how.tenant_id, level=level)
    ask.noted(how.tenant_id)
    return answer(state.to_dict())


@router.post("/services/check", status_code=202, response_model=CheckAsked)
async def check_services(body: CheckMany, ask: Asks, where: Where) -> Response:
    """Let up to 500 services be probed next. `GET /checks/{job}` tells for a day what was found."""
    asked = await ask.registry.checks.ask(
        ask.actor, body.selector.selection(), tenant_id=where.tenant_id, max_affected=body.max_affected
    )
    return answer(asked, status=202)


@router.get("/checks/{job}", response_model=CheckOutcome)
async def get_check(job: str, ask: Asks, where: Where) -> Response:
    """Show what came of a check so far: of each service how it is, and whether it was probed since."""
    return answer(await ask.registry.checks.outcome(ask.actor, job, tenant_id=where.tenant_id))


@router.get("/services/{ref}/health/history", response_model=Periods)
async def list_health(ref: str, parameters: Annotated[HistoryOfHealthQuery, Query()], ask: Asks) -> Response:
    """Show what probes found in the last days: seven at most."""
    start, end, step = _range(parameters)
    periods = await ask.registry.standing.health_history(
        ask.actor, ref, start=start, end=end, step=step, tenant_id=parameters.tenant_id
    )
    return answer({"items": [period.to_dict() for period in periods]})


@router.get("/statistics/timeseries", response_model=Series)
async def show_series(parameters: Annotated[SeriesQuery, Query()], ask: Asks) -> Response:
    """Show what probes found of all services together over time: seven days at most."""
    start, end, step = _range(parameters)
    if end - start > MOST_HISTORY:
        raise InvalidField("from: is more than seven days before to.", param="from")
    found = await ask.registry.standing.series(
        ask.actor, parameters.metric, start=start, end=end, step=step, tenant_id=parameters.tenant_id
    )
    return answer(found)


def _range(parameters: HistoryOfHealthQuery) -> tuple[datetime, datetime, timedelta]:
    """Return from when until when, and how long a period is. Raises ``InvalidField``."""
    end = parameters.until or datetime.now(UTC)
    if end < EARLIEST:
        raise InvalidField(f"to: must be of the year {EARLIEST.year} or later.", param="to")
    start = parameters.since or end - timedelta(days=1)
    step = max(parameters.bucket, DEFAULT_STEP)
    if not start < end:
        raise InvalidField("from: must be before to.", param="from")
    if (end - start) / step > MAX_PERIODS:
        raise InvalidField(f"bucket: makes more than {MAX_PERIODS:,} periods of that time.", param="bucket")
    return start, end, step


@router.get("/health/summary", response_model=Summary)
async def summarise(ask: Asks, where: Where) -> Response:
    """Show how many services there are of each status, and which required ones are unhealthy."""

    async def load() -> bytes:
        numbers = await ask.registry.catalog.statistics(ask.actor, tenant_id=where.tenant_id)
        shown: dict[str, Any] = {name: numbers[name] for name in _SUMMARISED}
        return encoded({**shown, "required_unhealthy": numbers["required_services"]["unhealthy"]})

    kept = msgspec.json.decode(await ask.kept(where.tenant_id, ("health summary",), load))
    return answer({**kept, "self_preservation": ask.registry.standing.self_preservation})
