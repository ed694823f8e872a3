"""What every store of vectors does: the same scenarios for Qdrant and for pgvector.

A test class that inherits them has the fixture ``store``, a store that nobody else uses, not yet prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hx_gateway.cache.meaning.stores import Entry, Near, Place, Space, VectorStore

SPACE = Space("an embedder", 3)
NOW = 1_800_000_000.25
HERE = Place(tenant_id="tn-a", within="team:tm-1", frame="0" * 32)
EAST, NORTH, UP = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
NORTH_EAST = (0.6, 0.8, 0.0)


def entry(
    text: str, vector: Sequence[float] = EAST, *, place: Place = HERE, at: float = NOW, seconds: float = 60.0
) -> Entry:
    """Return an entry whose answer is its text."""
    return Entry(
        id=place.id_of(text),
        place=place,
        vector=vector,
        answer=text.encode(),
        model="m",
        key_id="key-1",
        stored_at=at,
        expires_at=at + seconds,
    )


async def answer(store: VectorStore, place: Place = HERE, *, now: float = NOW) -> bytes | None:
    """Return the answer nearest to :data:`EAST`."""
    found = await store.nearest(place, EAST, now)
    return found.answer if found is not None else None


class AnyStore:
    async def test_the_nearest_is_found_with_its_similarity_and_age(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        assert await store.nearest(HERE, EAST, NOW) is None
        await store.put(entry("north", NORTH))
        await store.put(entry("north-east", NORTH_EAST, at=NOW - 7))
        found = await store.nearest(HERE, EAST, NOW)
        assert found == Near(b"north-east", found.similarity if found else 0, NOW - 7)
        assert abs(found.similarity - 0.6) < 1e-6

    async def test_any_bytes_come_back_as_they_were(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        body = bytes(range(256)) * 1000
        await store.put(replace(entry("x"), answer=body))
        assert await answer(store) == body

    async def test_each_part_of_a_place_is_a_wall(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        await store.put(entry("mine"))
        for change in ({"tenant_id": "tn-b"}, {"within": "team:tm-2"}, {"frame": "1" * 32}):
            assert await answer(store, replace(HERE, **change)) is None
        assert await answer(store) == b"mine"

    async def test_names_that_mean_something_elsewhere_mean_nothing_here(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        await store.put(entry("mine"))
        for odd in ("*", "", "%", "tn-a' OR '1'='1", "tn-a\n", "TN-A", "tn-a ", "tn-ä", '{"any": ["tn-a"]}'):
            assert await answer(store, replace(HERE, tenant_id=odd)) is None
            assert await store.purge(odd) == 0
        assert await answer(store) == b"mine"

    async def test_a_question_that_is_asked_again_replaces_its_answer(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        await store.put(entry("x"))
        await store.put(replace(entry("x"), answer=b"newer"))
        assert await answer(store) == b"newer"
        await store.trim(HERE.tenant_id, 1)
        assert await answer(store) == b"newer"

    async def test_what_is_too_old_is_not_found_and_goes(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        await store.put(entry("old", seconds=10))
        await store.put(entry("older", NORTH, seconds=5))
        assert await answer(store, now=NOW + 9.5) == b"old"
        assert await answer(store, now=NOW + 10) is None
        await store.expire(NOW + 7)
        assert await answer(store) == b"old"
        await store.expire(NOW + 10)
        assert await answer(store) is None

    async def test_the_oldest_of_a_tenant_are_trimmed(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        elsewhere = replace(HERE, within="key:key-1")
        places = [HERE, elsewhere, HERE, elsewhere, HERE]
        for age, place in enumerate(places):
            await store.put(entry(f"{age}", place=place, at=NOW - age))
        other = replace(HERE, tenant_id="tn-b")
        await store.put(entry("other's", place=other, at=NOW - 99, seconds=999))
        await store.trim(HERE.tenant_id, 2)
        await store.trim(HERE.tenant_id, 2)
        assert (await answer(store), await answer(store, elsewhere)) == (b"0", b"1")
        await store.trim(HERE.tenant_id, 1)
        assert (await answer(store), await answer(store, elsewhere)) == (b"0", None)
        assert await answer(store, other) == b"other's"

    async def test_a_purge_takes_a_tenants_or_a_keys_or_a_models_and_no_others(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        places = {name: replace(HERE, frame=name * 32) for name in "abc"}
        others = replace(HERE, tenant_id="tn-b")
        await store.put(replace(entry("a", place=places["a"]), key_id="key-2"))
        await store.put(replace(entry("b", place=places["b"]), model="m2"))
        await store.put(entry("c", place=places["c"]))
        await store.put(replace(entry("d", place=others), key_id="key-2", model="m2"))

        async def left() -> list[bytes | None]:
            return [await answer(store, place) for place in (*places.values(), others)]

        assert await store.purge("tn-a", key_id="key-2", model="m2") == 0
        assert await left() == [b"a", b"b", b"c", b"d"]
        assert await store.purge("tn-a", key_id="key-2") == 1
        assert await left() == [None, b"b", b"c", b"d"]
        assert await store.purge("tn-a", model="m2") == 1
        assert await left() == [None, None, b"c", b"d"]
        assert await store.purge("tn-a") == 1
        assert await left() == [None, None, None, b"d"]

    async def test_another_embedders_vectors_are_not_compared(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        await store.put(entry("first"))
        for other in (Space("another embedder", 3), Space("an embedder", 4)):
            await store.ensure(other)
            assert await store.nearest(HERE, [1.0] + [0.0] * (other.dimensions - 1), NOW) is None
            await store.put(entry("second", [1.0] + [0.0] * (other.dimensions - 1)))
        await store.ensure(SPACE)
        assert await answer(store) == b"first"
        assert await store.purge(HERE.tenant_id) == 3
        for space in (SPACE, Space("another embedder", 3), Space("an embedder", 4)):
            await store.ensure(space)
            assert await store.nearest(HERE, [1.0] + [0.0] * (space.dimensions - 1), NOW) is None

    async def test_making_ready_twice_loses_nothing(self, store: VectorStore) -> None:
        await store.ensure(SPACE)
        await store.put(entry("x"))
        await store.ensure(SPACE)
        assert await answer(store) == b"x"
