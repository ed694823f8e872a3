"""What a failure would reach, graphs of services, and what dependencies are for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_items import DependencyKind, ServiceStatus
from hx_gateway.errors import NotFound
from hx_gateway.registry import item_graph
from tests.integration.registry.registries import Registry

RUNTIME, STARTUP, OPTIONAL = DependencyKind.RUNTIME, DependencyKind.STARTUP, DependencyKind.OPTIONAL
HEALTHY, UNHEALTHY, UNKNOWN = ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY, ServiceStatus.UNKNOWN
NOBODY = UUID(int=7)


async def chain(registry: Registry, edges: str, **fields: dict[str, Any]) -> dict[str, UUID]:
    """Make services with one letter and the edges between them: ``a>b`` depends at runtime, ``a>b?`` optionally."""
    letters = sorted({letter for letter in edges if letter.isalpha()} | fields.keys())
    ids = {name: (await registry.create(name, **fields.get(name, {}))).id for name in letters}
    async with registry.open() as items:
        for edge in edges.split():
            kind = {"?": OPTIONAL, "!": STARTUP}.get(edge[3:])
            await items.add_dependency(ids[edge[0]], ids[edge[2]], kind=kind)
    return ids


async def test_an_impact_holds_all_who_depend_near_or_far_the_required_first(registry: Registry) -> None:
    required = {"is_required": True}
    ids = await chain(
        registry,
        "b>a c>b d>b e>d e>a? f>e! x>y",
        c={"priority": "low"},
        d={**required, "priority": "low"},
        e={**required, "priority": "critical"},
        f={"priority": "critical"},
    )
    async with registry.open() as items:
        found = await items.get_impact(ids["a"])
        assert [service.name for service in found.services] == ["e", "d", "f", "b", "c"]
        assert [service.name for service in found.services if service.direct] == ["e", "b"]
        assert (found.total, found.required) == (5, 2)
        cut = await items.get_impact(ids["a"], limit=2)
        assert ([service.name for service in cut.services], cut.total) == (["e", "d"], 5)
        strict = await items.get_impact(ids["a"], kinds={RUNTIME})
        assert [service.name for service in strict.services] == ["e", "d", "b", "c"]
        assert not strict.services[0].direct
        nothing = await items.get_impact(ids["x"])
        assert (nothing.total, nothing.required, nothing.services) == (0, 0, [])
        with pytest.raises(NotFound):
            await items.get_impact(NOBODY)
        for limit in (0, 201):
            with pytest.raises(InvalidField, match="limit: must be between 1 and 200"):
                await items.get_impact(ids["a"], limit=limit)


async def test_a_status_is_as_bad_as_that_of_required_services_needed_at_runtime(registry: Registry) -> None:
    ids = await chain(
        registry,
        "b>a c>b d>a! e>a? f>g g>a h>k",
        a={"status": "unhealthy", "is_required": True},
        b={"status": "healthy", "is_required": True},
        c={"status": "healthy"},
        d={"status": "healthy"},
        e={"status": "maintenance"},
        f={"status": "healthy"},
        g={"status": "healthy"},
        h={"status": "healthy"},
        k={"status": "healthy", "is_required": True},
    )
    async with registry.open() as items:
        found = await items.get_impact(ids["a"])
        effective = {service.name: service.effective_status for service in found.services}
        assert effective == {
            "b": UNHEALTHY,
            "c": UNHEALTHY,
            "d": HEALTHY,
            "e": ServiceStatus.MAINTENANCE,
            # It needs g, which is not required: that g is as bad as what it needs is no matter of f's.
            "f": HEALTHY,
            "g": UNHEALTHY,
        }
        assert {service.name: service.status for service in found.services}["b"] is HEALTHY
        assert found.effective_status is UNHEALTHY
        await items.delete(ids["k"])
        assert (await items.get_impact(ids["h"])).effective_status is ServiceStatus.DISABLED


async def test_the_deleted_and_other_tenants_are_in_no_graph(registry: Registry, rival: Registry) -> None:
    ids = await chain(registry, "b>a c>b d>a")
    theirs = await chain(rival, "b>a")
    async with registry.open() as items:
        await items.delete(ids["b"])
        assert [service.name for service in (await items.get_impact(ids["a"])).services] == ["d"]
        graph = await items.get_graph()
        assert [node.name for node in graph.nodes] == ["a", "c", "d"]
        assert [(edge.item_id, edge.depends_on_id) for edge in graph.edges] == [(ids["d"], ids["a"])]
        with pytest.raises(NotFound):
            await items.get_graph(theirs["a"])
        with pytest.raises(NotFound):
            await items.get_impact(theirs["a"])


async def test_a_graph_is_cut_around_a_service(registry: Registry) -> None:
    ids = await chain(registry, "a>b b>c c>d e>b x>y")

    async def around(**options: Any) -> str:
        async with registry.open() as items:
            return "".join(node.name for node in (await items.get_graph(ids["b"], **options)).nodes)

    assert await around() == "abcde"
    assert await around(depth=1) == "abce"
    assert await around(direction="dependencies") == "bcd"
    assert await around(direction="dependencies", depth=1) == "bc"
    assert await around(direction="dependents") == "abe"
    async with registry.open() as items:
        layers = (await items.get_graph()).layers()
        assert [[node.name for node in layer] for layer in layers] == [["d", "y"], ["c", "x"], ["b"], ["a", "e"]]


async def test_a_graph_that_is_too_large_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await chain(registry, "a>b b>c x>y")
    monkeypatch.setattr(item_graph, "MAX_GRAPH", 3)
    async with registry.open() as items:
        assert len((await items.get_graph(ids["a"])).nodes) == 3
        with pytest.raises(InvalidField, match="more than 3 services or dependencies") as caught:
            await items.get_graph()
        assert caught.value.param == "root"


async def test_ways_that_meet_again_and_again_are_followed_once(registry: Registry) -> None:
    """There are 2 ** 24 paths from the first to the last."""
    rungs = 24
    async with registry.open() as items:
        made = (await items.bulk_create([{"name": f"s{number:02}"} for number in range(rungs * 2 + 2)])).items
        for number in range(0, rungs * 2, 2):
            ends = [made[number + 2].id, made[number + 3].id]
            for item in made[number : number + 2]:
                await items.update(item.id, {"dependencies": ends})
        assert (await items.get_impact(made[-1].id)).total == rungs * 2
        assert len((await items.get_graph(made[0].id, direction="dependencies")).nodes) == rungs * 2 + 1


async def test_a_cycle_that_was_written_by_hand_ends_too(registry: Registry) -> None:
    ids = await chain(registry, "a>b b>c", a={"is_required": True}, c={"status": "unhealthy", "is_required": True})
    await registry.rows(
        "INSERT INTO hx_registry.registry_dependencies (tenant_id, item_id, depends_on_id) "
        "VALUES (:tenant, :c, :a) RETURNING 1",
        tenant=registry.tenant,
        c=ids["c"],
        a=ids["a"],
    )
    async with registry.open() as items:
        found = await items.get_impact(ids["a"])
        assert sorted(service.name for service in found.services) == ["b", "c"]
        graph = await items.get_graph()
        assert graph.layers() == []
        assert len(graph.cycles()) == 1


# Kinds


async def test_a_dependency_is_for_the_runtime_unless_said_otherwise(registry: Registry) -> None:
    ids = await chain(registry, "a>b a>c? a>d!")
    async with registry.open() as items:
        assert await items.get_dependency_kinds(ids["a"]) == {
            ids["b"]: RUNTIME,
            ids["c"]: OPTIONAL,
            ids["d"]: STARTUP,
        }
        # Other changes leave them.
        await items.update(ids["a"], {"dependencies": [ids["c"], ids["d"]]})
        await items.add_dependency(ids["a"], ids["c"])
        assert await items.get_dependency_kinds(ids["a"]) == {ids["c"]: OPTIONAL, ids["d"]: STARTUP}
        assert {edge.kind for edge in (await items.get_graph()).edges} == {OPTIONAL, STARTUP}
        with pytest.raises(ValueError, match="sometimes"):
            await items.add_dependency(ids["a"], ids["c"], kind="sometimes")  # type: ignore[arg-type]


async def test_a_change_of_a_kind_is_written_down(registry: Registry) -> None:
    ids = await chain(registry, "a>b")
    item = await registry.create("z")
    async with registry.open() as items:
        shown = await items.add_dependency(ids["a"], ids["b"], kind=RUNTIME)
        assert shown.row_version == 2
        shown = await items.add_dependency(ids["a"], ids["b"], kind=OPTIONAL)
        assert shown.row_version == 3
        await items.add_dependency(item.id, ids["b"], kind=STARTUP)
    assert (await registry.get(shown)).row_version == 3
    told = await registry.audit(shown)
    change = [{"dependency_kinds": {str(ids["b"]): kind}} for kind in ("runtime", "optional")]
    assert told[-1] == ("updated", *change)
    assert len(await registry.audit(item)) == 3
    assert await registry.first_broken_entry() is None
