"""A stage, its place in the order, and the pipeline that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Protocol

from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import RouteTable


class PipelineError(Exception):
    """A pipeline that must not serve; the text says which stage and why."""


class Place(StrEnum):
    """The six stages every request passes, in this order."""

    SECURITY = "security"
    DB_GUARD = "db_guard"
    VALIDATION = "validation"
    TRANSFORM = "transform"
    ROUTING = "routing"
    EXECUTION = "execution"


class Stage(Protocol):
    """One job. Returns ``None`` to go on, a reply to answer early; raises ``HXError`` to refuse.

    ``name`` is unique. ``provides`` and ``requires`` name fields of the context: each that is required must be
    provided by an earlier stage. Work after the response goes to :meth:`Context.after`.
    """

    name: ClassVar[str]
    provides: ClassVar[frozenset[str]]
    requires: ClassVar[frozenset[str]]

    async def __call__(self, ctx: Context) -> Reply | None: ...


class GatewayPipeline:
    """The stages and the routes, checked when built."""

    def __init__(self, stages: Sequence[Stage], routes: RouteTable) -> None:
        check_stages(stages)
        self.stages = tuple(stages)
        self.routes = routes

    async def run(self, ctx: Context) -> Reply:
        """Answer one request. Raises ``HXError`` for a refusal."""
        for stage in self.stages:
            reply = await stage(ctx)
            if reply is not None:
                return reply
        raise PipelineError(f"no stage answered {ctx.route.name!r}")


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise :class:`PipelineError` for a stage that is missing, twice, out of order or lacks what it requires."""
    names = [stage.name for stage in stages]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PipelineError(f"stage {twice[0]!r} is there twice")
    places = [place.value for place in Place]
    if missing := [place for place in places if place not in names]:
        raise PipelineError(f"stage {missing[0]!r} is missing")
    ordered = [name for name in names if name in places]
    if ordered != places:
        raise PipelineError(f"the stages run {' → '.join(ordered)}; they must run {' → '.join(places)}")
    if names[-1] != Place.EXECUTION:
        raise PipelineError(f"stage {names[-1]!r} stands behind 'execution' and would never run")
    provided: set[str] = set()
    for stage in stages:
        if lacking := sorted(stage.requires - provided):
            raise PipelineError(f"stage {stage.name!r} requires {lacking[0]!r}, which no earlier stage provides")
        provided |= stage.provides
