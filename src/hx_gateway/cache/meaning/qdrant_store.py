"""Answers by meaning in Qdrant: a collection a space, in which every search is one tenant's."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from hx_gateway.cache.meaning.stores import Entry, Near, Place, Space, SpaceMissing, StoreUnusable
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.qdrant import QdrantRefused, QdrantService

PREFIX = "hx_meanings_"
# Points carry their tenant as a payload with ``is_tenant``: those of a tenant lie together, and each has a graph of its
# own. https://qdrant.tech/documentation/guides/multiple-partitions/
_KEYWORDS: Mapping[str, Mapping[str, object]] = {
    "tenant_id": {"type": "keyword", "is_tenant": True},
    "within": {"type": "keyword"},
    "frame": {"type": "keyword"},
    "key_id": {"type": "keyword"},
    "model": {"type": "keyword"},
}
INDEXES: Mapping[str, Mapping[str, object]] = {
    **_KEYWORDS,
    "stored_at": {"type": "float"},
    "expires_at": {"type": "float"},
}
# No graph over all points: a search that names no tenant is never made.
_HNSW = {"m": 0, "payload_m": 16}
_NOT_FOUND, _CONFLICT = 404, 409
_TRIMMED_AT_ONCE = 1000


class _Payload(msgspec.Struct):
    tenant_id: str
    within: str
    frame: str
    answer: str
    stored_at: float
    expires_at: float


class QdrantVectorStore:
    """One server's collections whose names begin with :data:`PREFIX`.

    What a search brings is looked at again: an entry of another place is never handed on, whatever stands between us
    and the server.
    """

    def __init__(self, service: QdrantService) -> None:
        self._service = service
        self._path = ""

    async def ensure(self, space: Space) -> None:
        """Make the space's collection and its indexes. Several gateways may do so at once."""
        path = f"/collections/{PREFIX}{space.label}"
        vectors = {"size": space.dimensions, "distance": "Cosine"}
        try:
            found = await self._service.ask("GET", path)
        except QdrantRefused as refused:
            if refused.status != _NOT_FOUND:
                raise _unexpected() from refused
            await self._create(path, {"vectors": vectors, "hnsw_config": _HNSW})
        else:
            _check_vectors(path, found, vectors)
        for field, schema in INDEXES.items():
            await self._ask("PUT", f"{path}/index", {"field_name": field, "field_schema": schema}, wait=True)
        self._path = path

    async def _create(self, path: str, body: object) -> None:
        try:
            await self._service.ask("PUT", path, body)
        except QdrantRefused as refused:
            if refused.status != _CONFLICT:
                raise _unexpected() from refused

    async def nearest(self, place: Place, vector: Sequence[float], now: float) -> Near | None:
        """Search among the entries of ``place`` alone."""
        body = {
            "query": vector,
            "filter": {"must": [*_is(**_conditions(place)), {"key": "expires_at", "range": {"gt": now}}]},
            "limit": 1,
            "with_payload": True,
        }
        result = await self._ask("POST", f"{self._path}/points/query", body)
        try:
            points = result["points"]
            if not points:
                return None
            payload = msgspec.convert(points[0]["payload"], _Payload)
            answer, similarity = base64.b64decode(payload.answer, validate=True), float(points[0]["score"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _unexpected() from error
        if (payload.tenant_id, payload.within, payload.frame) != (place.tenant_id, place.within, place.frame):
            raise _unexpected()
        return Near(answer, similarity, payload.stored_at) if payload.expires_at > now else None

    async def put(self, entry: Entry) -> None:
        """Write one point, and wait until searches find it: the next trim counts it."""
        payload = {
            **_conditions(entry.place),
            "answer": base64.b64encode(entry.answer).decode("ascii"),
            "key_id": entry.key_id,
            "model": entry.model,
            "stored_at": entry.stored_at,
            "expires_at": entry.expires_at,
        }
        points = [{"id": str(entry.id), "vector": entry.vector, "payload": payload}]
        await self._ask("PUT", f"{self._path}/points", {"points": points}, wait=True)

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Delete by filter, in every collection of ours. What is written meanwhile may not be counted."""
        given = {"tenant_id": tenant_id, "key_id": key_id, "model": model}
        must = _is(**{name: value for name, value in given.items() if value is not None})
        purged = 0
        for path in await self._paths():
            with suppress(SpaceMissing):
                purged += await self._count(path, {"must": must})
                await self._delete(path, {"must": must})
        return purged

    async def expire(self, now: float) -> None:
        """Delete by filter, in every collection of ours."""
        for path in await self._paths():
            with suppress(SpaceMissing):
                await self._delete(path, {"must": [{"key": "expires_at", "range": {"lte": now}}]})

    async def trim(self, tenant_id: str, most: int) -> None:
        """Count, list the oldest, delete them by their ids; a thousand at once."""
        of_tenant = {"must": _is(tenant_id=tenant_id)}
        beyond = await self._count(self._path, of_tenant) - most
        while beyond > 0:
            batch = min(beyond, _TRIMMED_AT_ONCE)
            listed = await self._ask(
                "POST",
                f"{self._path}/points/scroll",
                {"filter": of_tenant, "limit": batch, "order_by": {"key": "stored_at"}, "with_payload": False},
            )
            try:
                ids = [point["id"] for point in listed["points"]]
            except (KeyError, TypeError) as error:
                raise _unexpected() from error
            if not ids:
                return
            await self._ask("POST", f"{self._path}/points/delete", {"points": ids}, wait=True)
            beyond -= batch

    async def _paths(self) -> list[str]:
        """Return every collection of ours: those of other embedders, and of gateways that have one, too."""
        listed = await self._ask("GET", "/collections")
        try:
            names = [str(collection["name"]) for collection in listed["collections"]]
        except (KeyError, TypeError) as error:
            raise _unexpected() from error
        return [f"/collections/{name}" for name in names if name.startswith(PREFIX)]

    async def _count(self, path: str, chosen: object) -> int:
        counted = await self._ask("POST", f"{path}/points/count", {"filter": chosen, "exact": True})
        try:
            return int(counted["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise _unexpected() from error

    async def _delete(self, path: str, chosen: object) -> None:
        await self._ask("POST", f"{path}/points/delete", {"filter": chosen}, wait=True)

    async def _ask(self, method: str, path: str, body: object = None, *, wait: bool = False) -> Any:
        try:
            return await self._service.ask(method, path, body, query={"wait": "true"} if wait else None)
        except QdrantRefused as refused:
            if refused.status == _NOT_FOUND:
                raise SpaceMissing from refused
            raise _unexpected() from refused


def _check_vectors(path: str, found: Any, wanted: Mapping[str, object]) -> None:
    """Raise :class:`StoreUnusable` for a collection that somebody else made: it may compare in another way."""
    try:
        made = found["config"]["params"]["vectors"]
        differs = any(made.get(name, value) != value for name, value in wanted.items())
    except (KeyError, TypeError, AttributeError) as error:
        raise _unexpected() from error
    if differs:
        raise StoreUnusable(f"Qdrant's {path.removeprefix('/')} has other vectors than ours: delete it, or rename it")


def _conditions(place: Place) -> dict[str, str]:
    return {"tenant_id": place.tenant_id, "within": place.within, "frame": place.frame}


def _is(**values: str) -> list[dict[str, object]]:
    return [{"key": name, "match": {"value": value}} for name, value in values.items()]


def _unexpected() -> DependencyError:
    return DependencyError("Qdrant", FailureKind.PROTOCOL)
