"""Everything is looked at, all at once, and nothing for longer than a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from hx_gateway.doctor.account import examine_account
from hx_gateway.doctor.cache import examine_cache
from hx_gateway.doctor.clock import examine_clock
from hx_gateway.doctor.dependencies import examine_dependencies
from hx_gateway.doctor.disk import examine_disk
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, problem
from hx_gateway.doctor.litellm import examine_litellm
from hx_gateway.doctor.meaning import examine_meaning
from hx_gateway.doctor.open_files import examine_open_files
from hx_gateway.doctor.permissions import examine_permissions
from hx_gateway.doctor.postgres import examine_postgres
from hx_gateway.doctor.qdrant import examine_qdrant
from hx_gateway.doctor.redis import examine_redis
from hx_gateway.doctor.threads import in_thread
from hx_gateway.doctor.upstream import examine_models, examine_tls, examine_upstream
from hx_gateway.doctor.versions import examine_versions
from hx_gateway.settings import LoadedSettings

CHECK_SECONDS = 5.0

Look = Callable[[Surroundings], list[Finding]]
AsyncLook = Callable[[Surroundings], Awaitable[list[Finding]]]

# Of this host: each may block, on a disk that hangs.
HOST_LOOKS: tuple[tuple[Subject, Look], ...] = (
    (Subject.VERSIONS, examine_versions),
    (Subject.DEPENDENCIES, examine_dependencies),
    (Subject.ACCOUNT, examine_account),
    (Subject.PERMISSIONS, examine_permissions),
    (Subject.DISK, examine_disk),
    (Subject.OPEN_FILES, examine_open_files),
    (Subject.CLOCK, examine_clock),
    (Subject.MODELS, examine_models),
    (Subject.TLS, examine_tls),
    (Subject.CACHE, examine_cache),
)
# Of others, over the network.
NETWORK_LOOKS: tuple[tuple[Subject, AsyncLook], ...] = (
    (Subject.POSTGRES, examine_postgres),
    (Subject.REDIS, examine_redis),
    (Subject.QDRANT, examine_qdrant),
    (Subject.MEANING, examine_meaning),
    (Subject.UPSTREAM, examine_upstream),
    (Subject.LITELLM, examine_litellm),
)


async def examine(loaded: LoadedSettings, around: Surroundings | None = None) -> list[Finding]:
    """Look at everything, each within :data:`CHECK_SECONDS`. ``around`` is made of the settings unless given."""
    around = around or Surroundings(settings=loaded.settings)
    looks = [
        *(bounded(subject, in_thread(partial(look, around))) for subject, look in HOST_LOOKS),
        *(bounded(subject, look(around)) for subject, look in NETWORK_LOOKS),
    ]
    found = await asyncio.gather(*looks)
    warnings = [problem(Subject.SETTINGS, warning, "Correct the variable.") for warning in loaded.warnings]
    return [*warnings, *(finding for findings in found for finding in findings)]


async def bounded(subject: Subject, look: Awaitable[list[Finding]], seconds: float = CHECK_SECONDS) -> list[Finding]:
    """Return what ``look`` finds, or that it was not done in time, or not let."""
    try:
        async with asyncio.timeout(seconds):
            return await look
    except TimeoutError:
        return [problem(subject, f"no answer within {seconds:g} s", "See whether it hangs.")]
    except OSError as error:
        return [problem(subject, f"it cannot be looked at: {error}", "Look with the account that may, or correct it.")]
