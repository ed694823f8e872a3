"""How many files a process may open, beside how many connections it may be asked to hold."""

from __future__ import annotations

import resource

from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.doctor.pools import connections_of_worker
from hx_gateway.settings import Settings

# Logs, the journal, libraries, and what the system needs itself.
OTHER_FILES = 128
# With fewer for clients and models there is no serving.
LEAST_FOR_CALLS = 100


def examine_open_files(around: Surroundings) -> list[Finding]:
    """Look at the limit of this process, which a service's unit may set otherwise."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge_open_files(around.settings, soft)


def judge_open_files(settings: Settings, limit: int) -> list[Finding]:
    """Judge a soft limit; ``RLIM_INFINITY`` is none."""
    if limit == resource.RLIM_INFINITY:
        return [ok(Subject.OPEN_FILES, "no limit")]
    base = connections_of_worker(settings) + settings.redis_max_connections + OTHER_FILES
    most = base + settings.max_connections + settings.upstream_max_connections
    detail = (
        f"{limit} a process; {most} where all is used: {settings.max_connections} clients, "
        f"{settings.upstream_max_connections} to models, {base} for stores and the rest"
    )
    raised = f"Raise it: ulimit -n {most} before the start, LimitNOFILE={most} in a unit"
    if limit < base + LEAST_FOR_CALLS:
        return [problem(Subject.OPEN_FILES, detail, f"{raised}.")]
    if limit < most:
        return [note(Subject.OPEN_FILES, detail, f"{raised}; or lower HX_MAX_CONNECTIONS, beyond which is a 503.")]
    return [ok(Subject.OPEN_FILES, detail)]
