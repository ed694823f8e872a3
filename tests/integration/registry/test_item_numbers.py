"""Numbers over rows: courses over time, slow services, samples, estimates, and the gauge of all tenants."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import text

from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.registry import item_facets, item_numbers
from hx_gateway.registry.probing import SeriesMetric, series, slower_because
from hx_gateway.registry.searches import ServiceSearch
from hx_gateway.registry.service_gauge import ServiceGauge
from hx_gateway.telemetry import Metrics
from tests.integration.registry.registries import NOON, Registry, SetClock, names

HOUR = timedelta(hours=1)
_ADD = text("""
INSERT INTO hx_registry.registry_health_history
VALUES (:tenant, :item, :bucket, :successes, :failures, :measured, 0, 0, :times)
""")


async def note(
    registry: Registry, item: RegistryItem, ago: timedelta, *times: float, successes: int = 1, failures: int = 0
) -> None:
    """Write down what probes found so long ago."""
    values = {"tenant": registry.tenant, "item": item.id, "bucket": NOON - ago, "measured": len(times)}
    async with registry.database.session(registry.tenant) as session:
        await session.execute(_ADD, {**values, "times": list(times), "successes": successes, "failures": failures})


async def reason(registry: Registry, item: RegistryItem) -> str | None:
    async with registry.database.session(registry.tenant) as session:
        return await slower_because(session, registry.tenant, item.id, NOON)


@pytest.mark.parametrize(
    ("recent", "before", "slow"),
    [
        ([40.0] * 20, [10.0] * 100, True),
        ([30.0] * 20, [10.0] * 100, False),
        ([40.0] * 19, [10.0] * 100, False),
        ([40.0] * 20, [10.0] * 99, False),
        ([40.0] * 20, [10.0] * 90 + [20.0] * 10, False),
    ],
    ids=["slow", "three times", "too few now", "too few before", "as slow before"],
)
async def test_a_service_is_slow_beside_its_own_week_once_enough_is_known(
    registry: Registry, rival: Registry, recent: Sequence[float], before: Sequence[float], slow: bool
) -> None:
    item, other = await registry.create_all("mail", "store")
    await note(registry, item, HOUR / 2, *recent)
    for place in range(0, len(before), 50):
        await note(registry, item, 2 * HOUR + place * timedelta(minutes=5), *before[place : place + 50])
    await note(registry, item, timedelta(days=8), *[1.0] * 50)
    told = await reason(registry, item)
    assert (told is not None) is slow
    if told is not None:
        assert "40 ms" in told
        assert "10 ms" in told
    assert await reason(registry, other) is None
    assert await reason(rival, item) is None


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("success_rate", [0.5, 0.75]),
        ("probes", [2.0, 8.0]),
        ("response_ms_p50", [3.0, 20.0]),
        ("response_ms_p95", [3.0, 29.0]),
    ],
)
async def test_a_course_over_time_is_of_all_services_of_the_tenant(
    registry: Registry, rival: Registry, metric: SeriesMetric, values: list[float]
) -> None:
    mail, store = await registry.create_all("mail", "store")
    await note(registry, mail, 2 * HOUR, 3.0, successes=1, failures=1)
    await note(registry, mail, HOUR, 10.0, 30.0, successes=3, failures=1)
    await note(registry, store, HOUR / 2, 20.0, successes=3, failures=1)
    await note(registry, store, timedelta(0), 99.0, failures=9)
    await note(rival, await rival.create("mail"), HOUR, 99.0, failures=9)
    async with registry.database.session(registry.tenant) as session:
        found, most = await series(session, registry.tenant, metric, start=NOON - 2 * HOUR, end=NOON, step=HOUR)
    assert [at for at, _ in found] == [NOON - 2 * HOUR, NOON - HOUR]
    assert [value for _, value in found] == pytest.approx(values)
    assert most > 2


async def test_statistics_tell_of_what_fails_what_is_needed_and_what_is_slow(registry: Registry) -> None:
    mail, store, gone = await registry.create_all("mail", "store", "gone")
    async with registry.open() as items:
        await items.update(mail.id, {"is_required": True})
        await items.add_dependency(store.id, mail.id)
        await items.add_dependency(mail.id, gone.id)
        await items.update_health_status(mail.id, ServiceStatus.UNHEALTHY, response_time_ms=5.0)
        await items.update_health_status(gone.id, ServiceStatus.UNHEALTHY, response_time_ms=99.0)
        await items.update_health_status(store.id, ServiceStatus.HEALTHY, response_time_ms=15.0)
        await items.delete(gone.id)
    await note(registry, mail, HOUR / 2, successes=3, failures=1)
    await note(registry, mail, 2 * HOUR, failures=9)
    async with registry.open() as items:
        found = await items.get_service_statistics()
    assert [one.name for one in found.top_failing] == ["mail"]
    assert [(one.name, one.dependents) for one in found.most_depended_on] == [("mail", 1)]
    assert found.required_services.unhealthy == ["mail"]
    times = found.response_time_ms
    assert (times.avg, times.p50, found.success_rate_1h) == (10.0, 10.0, 0.75)
    # Only the healthy one was seen.
    assert (found.stale, found.flapping) == (1, 0)


async def test_samples_are_of_so_many_services_at_most(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_facets, "SAMPLED_TAGS", 2)
    monkeypatch.setattr(item_numbers, "SAMPLED_EDGES", 1)
    monkeypatch.setattr(item_numbers, "MAX_NAMES", 1)
    made = [await registry.create(f"s{number}", tags=["x"], is_required=True) for number in range(4)]
    async with registry.open() as items:
        for item in made[1:]:
            await items.add_dependency(item.id, made[0].id)
            await items.update_health_status(item.id, ServiceStatus.UNHEALTHY)
        facets, tags, counted_in = await items.get_facets(ServiceSearch(text="s"), tags=5)
        numbers = await items.get_service_statistics()
    assert (facets.total, tags, counted_in) == (4, [("x", 2)], 2)
    # Found in one dependency, and counted in all.
    assert [one.dependents for one in numbers.most_depended_on] == [3]
    assert len(numbers.required_services.unhealthy) == 1
    assert numbers.required_services.unhealthy_count == 3


async def test_counts_of_probes_are_what_those_of_some_come_to(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await registry.create(f"s{number}") for number in range(5)]
    async with registry.open() as items:
        for item in made:
            await items.update_health_status(item.id, ServiceStatus.HEALTHY, response_time_ms=5.0)
        await items.delete(made[0].id)
        every = await items.get_service_statistics()
        monkeypatch.setattr(item_numbers, "SAMPLED_PROBES", 2)
        some = await items.get_service_statistics()
    assert (every.success_count, every.failure_count, every.probes_counted_in) == (4, 0, 4)
    assert (some.success_count, some.failure_count, some.probes_counted_in) == (4, 0, 2)
    assert some.response_time_ms == every.response_time_ms


async def test_stale_and_flapping_ones_are_counted_among_all_that_live(
    registry: Registry, rival: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_numbers, "SAMPLED_PROBES", 1)
    await rival.create("other")
    made = [await registry.create(f"s{number}") for number in range(6)]
    async with registry.open() as items:
        limit = NOON - item_numbers.STALE_AFTER
        await items.bulk_update_last_seen([made[1].id, made[5].id], at=limit - timedelta(seconds=1))
        await items.bulk_update_last_seen([made[2].id], at=limit)
        await items.bulk_update_last_seen([made[3].id], at=NOON)
    async with registry.database.session(registry.tenant) as session:
        flap = "UPDATE hx_registry.registry_health SET flapping = true WHERE item_id = ANY(:ids)"
        await session.execute(text(flap), {"ids": [made[3].id, made[5].id]})
    async with registry.open() as items:
        everybody = await items.get_service_statistics()
        await items.delete(made[5].id)
        living = await items.get_service_statistics()
    # Never seen: s0 and s4.
    assert (everybody.stale, everybody.flapping) == (4, 2)
    assert (living.stale, living.flapping) == (3, 1)


async def test_what_is_counted_by_triggers_is_no_estimate(registry: Registry) -> None:
    await registry.create("a", priority="low")
    await registry.create("b", priority="high", is_enabled=False)
    async with registry.open() as items:
        for filters, wanted in (({}, 2), ({"priority": ["low"]}, 1), ({"status": []}, 0), ({"is_enabled": False}, 1)):
            search = ServiceSearch(filters=filters)
            assert await items.estimate_found(search) == (wanted, False)
            assert await items.count_found(search) == wanted
        guess, guessed = await items.estimate_found(ServiceSearch(text="a", deleted="with"))
    assert guessed
    assert guess >= 0


async def test_members_of_metadata_are_found_as_they_may_be_written(registry: Registry) -> None:
    for name, value in {"text": "7", "number": 7, "list": [7], "truth": True, "none": None, "deep": {"a": 7}}.items():
        await registry.create(name, service_metadata={"team": value})
    for path, told, wanted in (
        (("team",), "7", {"text", "number", "list"}),
        (("team",), "true", {"truth"}),
        (("team",), "null", {"none"}),
        (("team", "a"), "7", {"deep"}),
        (("team",), "007", set()),
    ):
        async with registry.open() as items:
            assert set(names((await items.find(ServiceSearch(members=((path, told),)))).items)) == wanted, told


async def test_the_gauge_is_of_all_tenants_and_follows_what_is_gone(registry: Registry, rival: Registry) -> None:
    metrics = Metrics()
    gauge = ServiceGauge(registry.database, metrics)
    labels = {"status": "disabled", "protocol": "unix_socket", "priority": "critical"}
    values = {**labels, "status": ServiceStatus.DISABLED}
    item = await registry.create("mail", **values)
    await rival.create("mail", **values)
    await gauge.read()
    assert metrics.registry.get_sample_value("hx_registry_services", labels) == 2
    async with registry.open() as items:
        await items.delete(item.id)
    async with rival.open() as items:
        await items.update((await items.get_multi()).items[0].id, {"priority": "low"})
    await gauge.read()
    assert metrics.registry.get_sample_value("hx_registry_services", labels) == 0


async def test_the_gauge_tells_of_what_is_required_and_how_late_probes_are(registry: Registry) -> None:
    metrics, clock = Metrics(), SetClock()
    labels = {"status": "maintenance"}
    await registry.create("mail", status=ServiceStatus.MAINTENANCE, is_required=True)
    await registry.create("post", status=ServiceStatus.MAINTENANCE)
    gauge = ServiceGauge(registry.database, metrics, clock=clock)

    def value(name: str, labels: dict[str, str] | None = None) -> float | None:
        return metrics.registry.get_sample_value(name, labels or {})

    await gauge.read()
    assert value("hx_registry_required_services", labels) == 1
    on_time = value("hx_registry_checks_overdue_seconds")
    assert on_time is not None
    clock.time += HOUR
    await gauge.read()
    late = value("hx_registry_checks_overdue_seconds")
    assert late is not None
    assert late >= on_time + 3600 - 60
    await ServiceGauge(registry.database, metrics, probing=False, clock=clock).read()
    assert value("hx_registry_checks_overdue_seconds") == 0
