"""Where settings come from beside their own variables: files, the parts of a URL, and places of the system."""

from __future__ import annotations

import difflib
import io
import os
import re
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from dotenv import dotenv_values

ENV_FILE_VARIABLE = "HX_ENV_FILE"
# systemd sets it for a unit with LoadCredential=, and a container's configuration can.
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_OUR_PREFIXES = ("HX_", "WRAPPER_", "POSTGRES_")
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:PASS|PASSWORD|SECRET|TOKEN|HEADERS|(?:API|ACCESS|ADMIN|MASTER|SALT)_KEY)$"
    r"|^(?:PG_URL|DATABASE_UR[LI]|(?:LITELLM_)?REDIS_URL)$"
)
_URL_WITH_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]+@")


class SourceProblem(Exception):
    """Settings cannot be taken from a file: one sentence with what to do, and never a value."""


def read_layers(
    environ: Mapping[str, str], env_files: Sequence[Path], known: Collection[str]
) -> list[tuple[str, Mapping[str, str]]]:
    """Return where variables are looked for, each place by its name: the environment, credentials, files.

    Of the folder of credentials only files are read that are named like a setting, ``known`` or ours by its prefix. A
    file of ``HX_ENV_FILE`` after a ``-`` may be missing, or closed to us. Raises :class:`SourceProblem`, also for a
    file with a secret that everybody on the machine may read or write.
    """
    layers: list[tuple[str, Mapping[str, str]]] = [("environment", environ)]
    if folder := environ.get(CREDENTIALS_VARIABLE):
        layers.append((folder, _read_credentials(Path(folder), known)))
    layers += [(str(path), _read_env_file(path)) for path in env_files]
    for part in environ.get(ENV_FILE_VARIABLE, "").split(":"):
        path = Path(part.removeprefix("-"))
        if part and (not part.startswith("-") or _is_open_to_us(path)):
            layers.append((str(path), _read_env_file(path)))
    return layers


def _is_open_to_us(path: Path) -> bool:
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def _read_credentials(folder: Path, known: Collection[str]) -> dict[str, str]:
    try:
        names = [name for name in sorted(os.listdir(folder)) if name in known or name.startswith(_OUR_PREFIXES)]
    except OSError as error:
        raise SourceProblem(f"{CREDENTIALS_VARIABLE}: cannot read {str(folder)!r}: {error.strerror}.") from error
    values = {}
    for name in names:
        text, mode = _read_text(CREDENTIALS_VARIABLE, folder / name)
        values[name] = text.rstrip("\r\n")
        _check_closed(CREDENTIALS_VARIABLE, folder / name, mode, {name: values[name]})
    return values


def _read_env_file(path: Path) -> dict[str, str]:
    text, mode = _read_text(ENV_FILE_VARIABLE, path)
    read = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values = {key: value for key, value in read.items() if value is not None}
    _check_closed(ENV_FILE_VARIABLE, path, mode, values)
    return values


def _read_text(variable: str, path: Path) -> tuple[str, int]:
    """Return a plain file's text and mode, of one and the same file whatever happens to its name."""
    try:
        if not path.is_file():
            raise SourceProblem(f"{variable}: there is no file {str(path)!r}.")
        with path.open("rb") as file:
            return file.read().decode("utf-8"), os.fstat(file.fileno()).st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SourceProblem(f"{variable}: cannot read {str(path)!r}: {error}.") from error


def _check_closed(variable: str, path: Path, mode: int, values: Mapping[str, str]) -> None:
    secret = next((name for name, value in values.items() if is_secret(name, value)), None)
    if secret is not None and mode & (stat.S_IROTH | stat.S_IWOTH) and os.name == "posix":
        raise SourceProblem(
            f"{variable}: {str(path)!r} holds {secret}, and everybody on this machine may read or write it "
            f"(mode {stat.S_IMODE(mode):04o}): chmod 640 it, then change the secrets in it."
        )


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable holds what others must not see, as its name or a password in its URL tells."""
    if value.strip() in ("", "none"):
        return False
    return _SECRET_NAME.search(name) is not None or _URL_WITH_PASSWORD.search(value) is not None


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
