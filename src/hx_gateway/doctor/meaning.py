"""The cache by meaning: whether its embedder answers in time, and whether its store has what it needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from hx_gateway.answering import Comparer, cache_defaults, embedder_of
from hx_gateway.app import build_models, default_upstreams
from hx_gateway.cache.meaning.embedding import Embedder, EmbeddingFailed, unit
from hx_gateway.cache.meaning.fastembed_embedder import PREFIX as FASTEMBED
from hx_gateway.cache.meaning.fastembed_embedder import is_installed
from hx_gateway.cache.meaning.qdrant_store import INDEXES
from hx_gateway.cache.meaning.qdrant_store import PREFIX as COLLECTION
from hx_gateway.cache.meaning.stores import Space
from hx_gateway.cache_rules import CacheMode
from hx_gateway.doctor.embedded import postgres_url
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.doctor.postgres import AWAY
from hx_gateway.doctor.qdrant import qdrant_of
from hx_gateway.doctor.threads import in_thread
from hx_gateway.services.base import DependencyError
from hx_gateway.services.dsn import DsnError
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantRefused, QdrantService

# The first may have to open a connection; of the others the quickest counts.
EMBEDDINGS = 3
QUESTION = "How many numbers are in a vector?"
NOT_FOUND = 404
_EXTENSION = """
SELECT installed_version, default_version,
    (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) OR (
        has_database_privilege(current_database(), 'CREATE')
        AND EXISTS (SELECT FROM pg_available_extension_versions AS each WHERE each.name = 'vector' AND each.trusted)
    ) AS may_be_made
FROM pg_available_extensions WHERE name = 'vector'
"""


async def examine_meaning(around: Surroundings) -> list[Finding]:
    """Look at the embedder, then at the store; a question or two is embedded, nothing is stored."""
    settings = around.settings
    model = settings.cache_embedding_model
    if model is None:
        if cache_defaults(settings, around.model_config).mode is not CacheMode.MEANING:
            return [ok(Subject.MEANING, "off: no HX_CACHE_EMBEDDING_MODEL")]
        remedy = "Set HX_CACHE_EMBEDDING_MODEL, or HX_CACHE to another mode."
        return [problem(Subject.MEANING, "it is asked for and has no embedding model; the start is refused", remedy)]
    unasked = _unasked(around, model)
    found, space = ([unasked], None) if unasked is not None else await _look_at_embedder(around, model)
    return [*found, *await _look_at_store(around, space)]


def judge_embedder(model: str, dimensions: int, seconds: float, budget: float) -> Finding:
    """Judge how long an embedding took, of the time that a whole look-up may take."""
    detail = f"{model}: {dimensions} numbers in {seconds * 1000:.1f} ms of {budget * 1000:.0f} ms"
    if seconds >= budget:
        remedy = "Raise HX_CACHE_MEANING_BUDGET_MS, or set HX_CACHE_EMBEDDING_MODEL to one that is nearer or smaller."
        return problem(Subject.MEANING, f"{detail}: every look-up is a bypass", remedy)
    return ok(Subject.MEANING, detail)


def judge_collection(name: str, told: Any, dimensions: int) -> Finding:
    """Judge a collection by what Qdrant says of it."""
    try:
        size, indexes = told["config"]["params"]["vectors"]["size"], told["payload_schema"]
        missing = sorted(field for field in INDEXES if field not in indexes)
        tenant = (indexes.get("tenant_id", {}).get("params") or {}).get("is_tenant", False)
    except (KeyError, TypeError, AttributeError):
        size, missing, tenant = None, [], True
    remedy = f"Delete the collection {name}: the gateway makes it anew, and what was in it is lost."
    if size != dimensions:
        return problem(Subject.MEANING, f"{name} has vectors of {size} numbers, the model {dimensions}", remedy)
    if missing:
        return note(
            Subject.MEANING, f"{name} lacks the indexes {', '.join(missing)}", "The gateway's start makes them."
        )
    if not tenant:
        return problem(Subject.MEANING, f"{name} has an index of tenant_id that is not is_tenant", remedy)
    return ok(Subject.MEANING, f"Qdrant's {name}, {size} numbers, indexes as made")


def judge_extension(told: Mapping[str, Any] | None) -> Finding:
    """Judge pgvector by the row of ``pg_available_extensions``, ``None`` where there is none."""
    if told is None:
        remedy = "Install pgvector on the server, or set QDRANT_URL."
        return problem(Subject.MEANING, "this PostgreSQL has no pgvector", remedy)
    if told["installed_version"] is not None:
        return ok(Subject.MEANING, f"pgvector {told['installed_version']} in PostgreSQL; its vectors have any size")
    if told["may_be_made"]:
        detail = f"pgvector {told['default_version']} is there to be made an extension"
        return note(Subject.MEANING, detail, "The gateway's start does it.")
    remedy = "Let an administrator run CREATE EXTENSION vector in the gateway's database."
    return problem(
        Subject.MEANING, "pgvector is no extension of the database, and our role may not make it one", remedy
    )


async def _look_at_embedder(around: Surroundings, model: str) -> tuple[list[Finding], Space | None]:
    settings = around.settings
    upstreams = default_upstreams(settings)
    models = build_models(settings, around.model_config)
    embedder = embedder_of(model, settings, Comparer(models.resolve, upstreams))
    try:
        dimensions, seconds = await _timed(embedder)
    except EmbeddingFailed as error:
        remedy = (
            "Set HX_CACHE_EMBEDDING_MODEL to an embedding model that is served here, and see that it answers; "
            "one of fastembed needs its files in HX_CACHE_EMBEDDING_FOLDER."
        )
        return [problem(Subject.MEANING, f"{model} gives no vector: {error}", remedy)], None
    finally:
        await embedder.close()
        for upstream in {id(upstream): upstream for upstream in upstreams.values()}.values():
            await upstream.close()
    found = judge_embedder(model, dimensions, seconds, settings.cache_meaning_budget_ms / 1000)
    return [found], Space(embedder.name, dimensions)


async def _timed(embedder: Embedder) -> tuple[int, float]:
    """Return how many numbers a vector has, and the seconds that the quickest took."""
    quickest, dimensions = float("inf"), None
    for _ in range(EMBEDDINGS):
        begun = time.perf_counter()
        vector = await embedder.embed(QUESTION)
        quickest = min(quickest, time.perf_counter() - begun)
        dimensions = len(unit(vector, dimensions))
    return dimensions or 0, quickest


def _unasked(around: Surroundings, model: str) -> Finding | None:
    """Return why a model is not asked: it is not installed, or it would be downloaded, which is the gateway's to do."""
    if not model.startswith(FASTEMBED):
        return None
    if not is_installed():
        detail = f"{model} needs fastembed, which is not installed; the start is refused"
        return problem(Subject.MEANING, detail, "pip install 'hx-gateway[fastembed]'")
    if around.settings.cache_embedding_folder is None:
        detail = f"{model} in this process, downloaded by the first start that needs it"
        return note(Subject.MEANING, detail, "Set HX_CACHE_EMBEDDING_FOLDER where there is no way out.")
    return None


async def _look_at_store(around: Surroundings, space: Space | None) -> list[Finding]:
    qdrant = qdrant_of(around)
    if qdrant is not None:
        try:
            return await _look_at_qdrant(qdrant, space)
        finally:
            await qdrant.close()
    url = await in_thread(partial(postgres_url, around))
    if url is not None:
        return await _look_at_postgres(url)
    if around.settings.pg_url is None and around.settings.embedded:
        return [ok(Subject.MEANING, "in the embedded PostgreSQL, which does not run now")]
    remedy = "Set QDRANT_URL, or PG_URL to a PostgreSQL with pgvector."
    return [problem(Subject.MEANING, "there is no store for vectors", remedy)]


async def _look_at_qdrant(qdrant: QdrantService, space: Space | None) -> list[Finding]:
    if space is None or not await qdrant.healthy():
        return []  # told with the embedder, or with Qdrant
    name = f"{COLLECTION}{space.label}"
    try:
        return [judge_collection(name, await qdrant.ask("GET", f"/collections/{name}"), space.dimensions)]
    except QdrantRefused as refused:
        if refused.status == NOT_FOUND:
            return [note(Subject.MEANING, f"Qdrant has no {name} yet", "The gateway's start makes it.")]
        detail = f"Qdrant answers {refused.status} for {name}"
    except DependencyError as error:
        detail = f"Qdrant does not tell of {name}: {error.kind}"
    return [problem(Subject.MEANING, detail, "See Qdrant's log, and what QDRANT_API_KEY may do.")]


async def _look_at_postgres(url: str) -> list[Finding]:
    try:
        service = PostgresService(url)
    except DsnError:
        return []  # told with PostgreSQL
    await service.connect()
    try:
        async with service.acquire() as connection:
            return [judge_extension(await connection.fetchrow(_EXTENSION))]
    except AWAY:
        return []  # told with PostgreSQL
    finally:
        await service.close()
