"""What follows from findings: thresholds, flapping, grace, decisions, and when to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.models.health_config import HealthConfig
from hx_gateway.db.models.registry_items import ServicePriority, ServiceProtocol, ServiceStatus
from hx_gateway.registry.probing.judgement import GRACE, Judgement, Standing, judge, status_after
from hx_gateway.registry.probing.outcome import (
    FailureClass,
    Level,
    ProbeOutcome,
    Verdict,
    busy,
    failed,
    healthy,
    unasked,
)
from hx_gateway.registry.probing.rules import Rules, jittered, rules_for

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
LONG_AGO = NOON - timedelta(days=1)
WELL = healthy(Level.READY)
DOWN = failed(FailureClass.CONNECT, "nobody there")
UNKNOWN, HEALTHY, UNHEALTHY = ServiceStatus.UNKNOWN, ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY
MAINTENANCE, DISABLED = ServiceStatus.MAINTENANCE, ServiceStatus.DISABLED
USUAL = rules_for(ServicePriority.MEDIUM, ServiceProtocol.HTTP, HealthConfig())


@dataclass
class Service:
    """A service that is probed once a ``step``."""

    standing: Standing = field(default_factory=Standing)
    rules: Rules = USUAL
    now: datetime = NOON
    registered_at: datetime = LONG_AGO
    step: timedelta = timedelta(seconds=10)
    frozen: bool = False
    began: int = 0
    ended: int = 0

    def see(self, *outcomes: ProbeOutcome) -> Judgement:
        for outcome in outcomes:
            judgement = judge(
                self.standing,
                outcome,
                self.rules,
                now=self.now,
                registered_at=self.registered_at,
                frozen=self.frozen,
            )
            self.standing, self.now = judgement.standing, self.now + self.step
            self.began += judgement.began_flapping
            self.ended += judgement.ended_flapping
        return judgement

    @property
    def observed(self) -> ServiceStatus:
        return self.standing.observed


def known(status: ServiceStatus) -> Service:
    return Service(Standing(observed=status))


# Thresholds


def test_the_first_success_makes_an_unknown_service_healthy() -> None:
    service = Service()
    service.see(WELL)
    assert service.observed is HEALTHY


def test_the_third_failure_in_a_row_makes_it_unhealthy() -> None:
    service = known(HEALTHY)
    service.see(DOWN, DOWN)
    assert service.observed is HEALTHY
    service.see(DOWN)
    assert (service.observed, service.standing.failure_class) == (UNHEALTHY, FailureClass.CONNECT)


def test_a_success_in_between_begins_the_count_anew() -> None:
    service = known(HEALTHY)
    service.see(DOWN, DOWN, WELL, DOWN, DOWN)
    assert service.observed is HEALTHY


def test_the_second_success_in_a_row_makes_it_healthy_again() -> None:
    service = known(UNHEALTHY)
    service.see(WELL)
    assert service.observed is UNHEALTHY
    service.see(WELL)
    assert service.observed is HEALTHY


def test_a_success_takes_the_last_failure_away() -> None:
    service = known(HEALTHY)
    service.see(DOWN)
    assert service.standing.last_error == "nobody there"
    service.see(WELL)
    assert service.see(WELL).standing.failure_class is None


def test_thresholds_are_a_services_own() -> None:
    own = rules_for(ServicePriority.MEDIUM, ServiceProtocol.HTTP, HealthConfig(failures=1, successes=3))
    service = Service(Standing(observed=HEALTHY), rules=own)
    service.see(DOWN)
    assert service.observed is UNHEALTHY
    service.see(WELL, WELL)
    assert service.observed is UNHEALTHY
    service.see(WELL)
    assert service.observed is HEALTHY


def test_tools_are_asked_for_seldom_where_a_server_is_started_for_it_and_as_the_service_says() -> None:
    asked = [
        rules_for(ServicePriority.MEDIUM, protocol, HealthConfig(tools_seconds=own)).tools_seconds
        for protocol in (ServiceProtocol.HTTP, ServiceProtocol.STDIO)
        for own in (None, 60.0, 0.0)
    ]
    assert asked == [300.0, 60.0, 0.0, 3600.0, 60.0, 0.0]


def test_a_server_that_is_asked_too_often_keeps_its_state_and_its_counts() -> None:
    service = known(HEALTHY)
    service.see(DOWN, DOWN)
    judgement = service.see(busy(None))
    assert (service.observed, service.standing.consecutive_failures) == (HEALTHY, 2)
    assert judgement.next_in_seconds == 2 * USUAL.interval
    assert service.see(busy(900.0)).next_in_seconds == 900.0


def test_what_cannot_be_asked_is_unknown() -> None:
    service = known(HEALTHY)
    service.see(unasked("no endpoint"))
    assert (service.observed, service.standing.last_error) == (UNKNOWN, "no endpoint")


# Grace


def test_within_its_first_minute_a_service_is_not_called_unhealthy() -> None:
    service = Service(registered_at=NOON)
    judgement = service.see(DOWN, DOWN, DOWN, DOWN)
    assert service.observed is UNKNOWN
    assert judgement.next_in_seconds == 10.0
    service.now = NOON + GRACE
    service.see(DOWN)
    assert service.observed is UNHEALTHY


def test_one_that_was_healthy_within_its_first_minute_has_no_grace() -> None:
    service = Service(registered_at=NOON, step=timedelta(seconds=1))
    service.see(WELL, DOWN, DOWN, DOWN)
    assert service.observed is UNHEALTHY


# Flapping


def flap(service: Service) -> None:
    """Change the state four times."""
    for _ in range(2):
        service.see(DOWN, DOWN, DOWN, WELL, WELL)


def test_four_changes_in_ten_minutes_are_flapping_and_told_of_once() -> None:
    service = known(HEALTHY)
    flap(service)
    assert (service.standing.flapping, service.began) == (True, 1)
    service.see(DOWN, DOWN, DOWN, WELL)
    assert service.began == 1


def test_four_changes_over_a_longer_time_are_not() -> None:
    service = Service(Standing(observed=HEALTHY), step=timedelta(minutes=2))
    flap(service)
    assert not service.standing.flapping


def test_a_flapping_service_takes_twice_the_failures_to_go_down() -> None:
    service = known(HEALTHY)
    flap(service)
    service.see(*[DOWN] * 5)
    assert service.observed is HEALTHY
    service.see(DOWN)
    assert service.observed is UNHEALTHY


def test_a_flapping_service_takes_five_successes_to_recover_and_is_steady_then() -> None:
    service = known(HEALTHY)
    flap(service)
    service.see(*[DOWN] * 6, *[WELL] * 4)
    assert (service.observed, service.ended) == (UNHEALTHY, 0)
    service.see(WELL)
    assert (service.observed, service.standing.flapping, service.ended) == (HEALTHY, False, 1)
    assert service.standing.transitions == ()


def test_what_is_found_out_for_the_first_time_is_no_change_to_and_fro() -> None:
    service = Service()
    service.see(WELL, DOWN, DOWN, DOWN, WELL, WELL, DOWN, DOWN, DOWN)
    assert not service.standing.flapping


# A freeze


def test_while_frozen_nothing_changes_and_all_is_counted() -> None:
    service = known(HEALTHY)
    service.frozen = True
    judgement = service.see(*[DOWN] * 5)
    assert (service.observed, service.standing.consecutive_failures, judgement.held_back) == (HEALTHY, 5, True)
    service.frozen = False
    service.see(DOWN)
    assert service.observed is UNHEALTHY


# When to look again


def test_an_unhealthy_service_is_looked_at_ever_less_often_up_to_a_limit() -> None:
    service = known(HEALTHY)
    waits = [service.see(DOWN).next_in_seconds for _ in range(12)]
    assert waits[:5] == [60.0, 60.0, 60.0, 90.0, 135.0]
    assert waits[-1] == 300.0


def test_one_that_recovers_is_looked_at_at_its_interval() -> None:
    service = known(HEALTHY)
    service.see(*[DOWN] * 9)
    assert service.see(WELL).next_in_seconds == 60.0


def test_an_interval_above_the_limit_stays() -> None:
    own = rules_for(ServicePriority.CRITICAL, ServiceProtocol.HTTP, HealthConfig(interval=600.0))
    assert own.unhealthy_interval(10) == 600.0


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 85.0), (0.5, 100.0), (0.999999999, 115.0)])
def test_jitter_is_fifteen_per_cent_both_ways(draw: float, seconds: float) -> None:
    assert jittered(100.0, lambda: draw) == pytest.approx(seconds)


def test_starting_a_server_only_to_ask_it_is_rarer() -> None:
    assert rules_for(ServicePriority.CRITICAL, ServiceProtocol.STDIO, HealthConfig()).interval == 300.0
    assert rules_for(ServicePriority.CRITICAL, ServiceProtocol.STDIO, HealthConfig(interval=20.0)).interval == 20.0


# Decisions


@pytest.mark.parametrize("decided", [MAINTENANCE, DISABLED])
@pytest.mark.parametrize("outcome", [WELL, DOWN, unasked("x"), busy(None)])
def test_no_finding_overrides_a_decision(decided: ServiceStatus, outcome: ProbeOutcome) -> None:
    before = Standing(observed=HEALTHY)
    for after in (UNKNOWN, HEALTHY, UNHEALTHY):
        assert status_after(decided, before, Standing(observed=after), outcome, now=NOON) is decided


def test_a_maintenance_whose_time_is_over_gives_way_to_what_is_observed() -> None:
    after = Standing(observed=UNHEALTHY)
    kept = status_after(MAINTENANCE, after, after, DOWN, now=NOON, maintenance_until=NOON + timedelta(seconds=1))
    over = status_after(MAINTENANCE, after, after, DOWN, now=NOON, maintenance_until=NOON)
    assert (kept, over) == (MAINTENANCE, UNHEALTHY)


def test_a_status_that_others_noted_stays_until_a_finding_confirms_what_is_observed() -> None:
    standing = Standing(observed=HEALTHY)
    assert status_after(UNHEALTHY, standing, standing, DOWN, now=NOON) is UNHEALTHY
    assert status_after(UNHEALTHY, standing, standing, WELL, now=NOON) is HEALTHY


def test_what_cannot_be_asked_leaves_what_others_noted() -> None:
    nothing = Standing()
    assert status_after(HEALTHY, nothing, nothing, unasked("x"), now=NOON) is HEALTHY
    assert status_after(HEALTHY, Standing(observed=HEALTHY), nothing, unasked("x"), now=NOON) is UNKNOWN


# Whatever comes


@given(st.lists(st.sampled_from([WELL, DOWN, busy(None), unasked("x")]), max_size=60))
def test_no_state_changes_without_as_many_findings_in_a_row_as_it_takes(outcomes: Sequence[ProbeOutcome]) -> None:
    service, run, last = Service(), 0, None
    for outcome in outcomes:
        before = service.observed
        service.see(outcome)
        if outcome.verdict is not Verdict.UNDECIDED:
            run, last = (run + 1 if outcome.verdict is last else 1), outcome.verdict
        if service.observed is before or service.observed is UNKNOWN:
            continue
        if service.observed is HEALTHY:
            assert (last, run >= (1 if before is UNKNOWN else 2)) == (Verdict.HEALTHY, True)
        else:
            assert (last, run >= 3) == (Verdict.FAILED, True)


@given(st.lists(st.sampled_from([WELL, DOWN]), min_size=1, max_size=60))
def test_whoever_fails_or_works_for_long_is_believed(outcomes: Sequence[ProbeOutcome]) -> None:
    service = Service()
    service.see(*outcomes)
    down = Service(replace(service.standing))
    down.see(*[DOWN] * 6)
    service.see(*[WELL] * 5)
    assert (service.observed, service.standing.flapping, down.observed) == (HEALTHY, False, UNHEALTHY)
