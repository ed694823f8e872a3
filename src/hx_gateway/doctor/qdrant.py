"""Qdrant: reachable, and new enough."""

from __future__ import annotations

from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, unreachable
from hx_gateway.doctor.versions import judge_server
from hx_gateway.services.base import DependencyError
from hx_gateway.services.dsn import place_of
from hx_gateway.services.qdrant import QdrantRefused, QdrantService
from hx_gateway.settings import NOT_CONFIGURED


async def examine_qdrant(around: Surroundings) -> list[Finding]:
    """Look at the server that is set."""
    url = around.settings.qdrant_url
    service = qdrant_of(around)
    if url is None or service is None:
        return [note(Subject.QDRANT, "not configured")]
    try:
        if not await service.healthy():
            return [unreachable(Subject.QDRANT, place_of(url), str(service.sample.failure), "QDRANT_URL")]
        return [judge_server(Subject.QDRANT, "Qdrant", await _version(service), f"at {place_of(url)}")]
    finally:
        await service.close()


def qdrant_of(around: Surroundings) -> QdrantService | None:
    """Return a client of the server that is set."""
    settings = around.settings
    if settings.qdrant_url is None or settings.qdrant_url == NOT_CONFIGURED:
        return None
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return QdrantService(settings.qdrant_url, api_key=key)


async def _version(service: QdrantService) -> str:
    try:
        return await service.version() or ""
    except (DependencyError, QdrantRefused):
        return ""  # a proxy before it may keep that to itself
