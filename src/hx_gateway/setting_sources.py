"""Where settings come from beside their own variables: the parts of a URL, and places of the system."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote


def database_from_parts(
    environ: Mapping[str, str], variables: Sequence[str], values: dict[str, object], sources: dict[str, str]
) -> list[str]:
    """Build the database's URL from ``POSTGRES_*`` where none of ``variables`` gives it; name URLs that disagree."""
    given = {name: environ[name] for name in variables if environ.get(name, "").strip()}
    warnings = []
    if len(set(given.values())) > 1:
        used, *ignored = given
        warnings.append(f"{used} is used; {', '.join(ignored)} says something else and is ignored.")
    host = environ.get("POSTGRES_HOST") or environ.get("POSTGRES_SERVER")
    if not host:
        return warnings
    user = quote(environ.get("POSTGRES_USER", "postgres"), safe="")
    password = quote(environ.get("POSTGRES_PASSWORD", ""), safe="")
    database = environ.get("POSTGRES_DATABASE") or environ.get("POSTGRES_DB") or "hx_gateway"
    port = environ.get("POSTGRES_PORT", "5432")
    url = f"postgresql://{user}{':' + password if password else ''}@{host}:{port}/{quote(database, safe='')}"
    if not given:
        values["pg_url"], sources["pg_url"] = url, "environment (POSTGRES_HOST and the like)"
    elif url not in given.values():
        warnings.append(f"{next(iter(given))} is used; POSTGRES_HOST says something else and is ignored.")
    return warnings


def misspelt(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return a warning for each variable with a prefix of ours that is not ``known``."""
    unknown = sorted(name for name in environ if name.startswith(("HX_", "WRAPPER_")) and name not in known)
    return [
        f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else ".")
        for name in unknown
        if not name.startswith(("HX_TEST_", "HX_BENCH_"))
        for close in [difflib.get_close_matches(name, known, n=1)]
    ]


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return where state is kept by default: systemd's directory, else the XDG state directory."""
    if state := environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])
    if environ.get("INVOCATION_ID"):
        return Path("/var/lib/hx-gateway")
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "hx-gateway"
