"""Statements over spend: every value is bound, and each begins with what its caller may see."""

from __future__ import annotations

from collections.abc import Sequence

from hx_gateway.spend.filters import RowFilters, SummaryFilters
from hx_gateway.spend.rights import Sight
from hx_gateway.spend.sources import CHARGES, DECISION, ERRORS, LOGS, SUMS, Source

MAX_CALLS_A_REQUEST = 20


class Query:
    """The conditions of a statement, and the values behind them."""

    def __init__(self, sight: Sight) -> None:
        self.values: list[object] = []
        self._conditions: list[str] = []
        self._see(sight)

    def where(self, condition: str, value: object) -> None:
        """Demand ``condition``, in which ``{}`` stands for the value."""
        self._conditions.append(condition.format(self.bind(value)))

    def bind(self, value: object) -> str:
        """Return what stands for ``value``."""
        self.values.append(value)
        return f"${len(self.values)}"

    @property
    def conditions(self) -> str:
        """All that is demanded."""
        return " AND ".join(self._conditions) or "true"

    def demand(self, condition: str) -> None:
        """Demand ``condition`` as it is."""
        self._conditions.append(condition)

    def _see(self, sight: Sight) -> None:
        if sight.tenant_id is not None:
            self.where("tenant_id = {}", sight.tenant_id)
        if sight.whole:
            return
        seen = [f"key_id = {self.bind(sight.key_id)}"]
        if sight.user_id is not None:
            seen.append(f"user_id = {self.bind(sight.user_id)}")
        if sight.teams:
            seen.append(f"team_id = ANY({self.bind(list(sight.teams))}::text[])")
        self.demand(f"({' OR '.join(seen)})")


def page_statement(source: Source, filters: RowFilters) -> tuple[str, list[object]]:
    """Return the statement of a page, with one row more where there is another page."""
    query = Query(filters.sight)
    for name, value in filters.chosen.items():
        query.where(source.filters[name], value)
    if filters.status is not None:
        lowest, highest = (query.bind(status) for status in filters.status)
        query.demand(f"status BETWEEN {lowest} AND {highest}")
    query.where(f"{source.at} >= {{}}", filters.start)
    if filters.end is not None:
        query.where(f"{source.at} < {{}}", filters.end)
    if filters.after is not None:
        at, call_id = query.bind(filters.after.at), query.bind(filters.after.call_id)
        query.demand(f"({source.at}, call_id) < ({at}, {call_id})")
    return _newest_first(source, source.columns, query, filters.limit + 1), query.values


def summary_statement(filters: SummaryFilters) -> tuple[str, list[object]]:
    """Return the statement of the groups, the dearest first, each with the sums of all of them."""
    query = Query(filters.sight)
    for name, value in filters.chosen.items():
        query.where(f"{name} = {{}}", value)
    query.where("day >= {}", filters.first)
    query.where("day <= {}", filters.last)
    groups = ", ".join(filters.groups)
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in SUMS)
    # Windows are made before the limit cuts: these are of every group.
    totals = ", ".join(f"(sum(sum({name})) OVER ())::bigint AS total_{name}" for name in SUMS)
    limit = query.bind(filters.limit)
    selection = f"SELECT {groups}, {sums}, {totals}, count(*) OVER () AS groups FROM hx_gateway.spend_daily"  # noqa: S608 - names are ours
    order = f"GROUP BY {groups} ORDER BY cost_nano DESC, {groups} LIMIT {limit}"
    return f"{selection} WHERE {query.conditions} {order}", query.values


def calls_statement(source: Source, sight: Sight, request_id: str) -> tuple[str, list[object]]:
    """Return the statement of a request's calls with what they were decided by, the newest first."""
    query = Query(sight)
    if sight.tenant_id is None:
        # The index begins with the tenant: looked up for each of them, it is still an index.
        query.demand("tenant_id = ANY(ARRAY(SELECT id FROM hx_gateway.tenants))")
    query.where("request_id = {}", request_id)
    more = (DECISION, CHARGES) if source is LOGS else (DECISION,)
    return _newest_first(source, (*source.columns, *more), query, MAX_CALLS_A_REQUEST), query.values


def _newest_first(source: Source, columns: Sequence[str], query: Query, limit: int) -> str:
    selection = f"SELECT {', '.join(columns)} FROM {source.table} WHERE {query.conditions}"  # noqa: S608 - names are ours
    return f"{selection} ORDER BY {source.at} DESC, call_id DESC LIMIT {query.bind(limit)}"


# Of the record, which knows a request by its trace. A day on either side keeps all other partitions out.
ROUTING_STATEMENT = f"""
SELECT "timestamp", selected_agent, alternatives, reasoning, routing_strategy, confidence_score, latency_ms, metadata
FROM agent_observability.routing_decisions
WHERE tenant_id = $1 AND trace_id = $2
  AND "timestamp" BETWEEN $3::timestamptz - interval '1 day' AND $3::timestamptz + interval '1 day'
ORDER BY "timestamp" DESC LIMIT {MAX_CALLS_A_REQUEST}
"""  # noqa: S608 - a number of ours
CALLS_OF_A_REQUEST: tuple[Source, ...] = (LOGS, ERRORS)
