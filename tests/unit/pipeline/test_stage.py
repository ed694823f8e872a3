"""A pipeline is checked when it is built."""

from __future__ import annotations

from typing import ClassVar

import pytest

from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import RouteTable
from hx_gateway.pipeline.stage import GatewayPipeline, PipelineError, Place, Stage, check_stages
from tests.unit.pipeline.doubles import context, route


def stage(
    title: str,
    *,
    gives: frozenset[str] = frozenset(),
    takes: frozenset[str] = frozenset(),
    reply: Reply | None = None,
    log: list[str] | None = None,
) -> Stage:
    class Made:
        name: ClassVar[str] = title
        provides: ClassVar[frozenset[str]] = gives
        requires: ClassVar[frozenset[str]] = takes

        async def __call__(self, ctx: Context) -> Reply | None:
            if log is not None:
                log.append(title)
            return reply

    return Made()


def six() -> list[Stage]:
    return [stage(place.value) for place in Place]


def test_the_six_stages_in_order_are_accepted() -> None:
    check_stages(six())


def test_a_stage_of_ones_own_fits_between_them() -> None:
    stages = six()
    stages.insert(3, stage("guardrail"))
    check_stages(stages)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ([stage("security"), *six()], "'security' is there twice"),
        (six()[1:], "'security' is missing"),
        ([six()[1], six()[0], *six()[2:]], "they must run security"),
        ([*six(), stage("late")], "'late' stands behind 'execution'"),
        ([stage("early", takes=frozenset({"principal"})), *six()], "'early' requires 'principal'"),
    ],
)
def test_a_pipeline_that_does_not_fit_names_the_stage(broken: list[Stage], words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        check_stages(broken)


async def test_stages_run_in_order_until_one_answers() -> None:
    log: list[str] = []
    stages = [stage(place.value, log=log) for place in Place]
    stages[3] = stage("transform", log=log, reply=Reply(418, []))
    reply = await GatewayPipeline(stages, RouteTable([route()])).run(context())
    assert reply.status == 418
    assert log == ["security", "db_guard", "validation", "transform"]
