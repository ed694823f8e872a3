"""Writes what can be read off the settings: their reference, the README's table, the example of an environment file."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from hx_gateway.setting_values import ADMIN_KEY_MIN_LENGTH
from hx_gateway.settings import NOT_CONFIGURED, Settings, variables_of

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_PAGE = ROOT / "docs" / "reference" / "settings.md"
ENVIRONMENT_FILE = ROOT / "config" / "gateway-wrapper.env"
README = ROOT / "README.md"

# The heading that stands before a field; the fields are in the order of the class.
SECTIONS = {
    "host": "Server",
    "admin_key": "Access",
    "default_key_rpm": "Limits and spend",
    "pg_url": "Stores",
    "journal_dir": "Record",
    "health_check_interval": "Health",
    "registry_require_if_match": "Registry",
    "litellm_base_url": "Models",
}
# Read and checked, but nothing of this version uses them yet. A test compares this with the source.
WITHOUT_EFFECT = frozenset({"disable_admin_ui"})
README_FIELDS = (
    "host",
    "port",
    "admin_key",
    "data_dir",
    "pg_url",
    "redis_url",
    "qdrant_url",
    "embedded",
    "litellm_base_url",
    "litellm_api_key",
    "model_config_file",
    "openai_api_key",
    "demo",
    "workers",
    "tls_cert",
    "tls_key",
    "trusted_proxies",
    "cors_origins",
    "log_level",
)
README_TABLE = re.compile(r"(<!-- settings -->\n).*?(<!-- end of settings -->)", re.DOTALL)
URLS_WITH_NONE = frozenset({"pg_url", "redis_url", "qdrant_url"})
SECONDS = re.compile(r"_(seconds|timeout|interval)$")

INTRODUCTION = """\
# Settings

Every setting is an environment variable, read once at the start. A bad value stops the start with a sentence that names
it. A variable that begins with `HX_` or `WRAPPER_` and is not a setting is named in a warning, with the likeliest
setting. `hx-gateway doctor` shows each setting in force and where it came from.

The order in which a value is looked for: the command line, the environment, the folder of credentials, the files named
with `--env-file` or in `HX_ENV_FILE` (separated by `:`), the default. The files hold lines like `NAME=value`; nothing
in them is expanded. One that is named after a `-` in `HX_ENV_FILE` may be missing, or closed to the gateway.

The folder of credentials is `$CREDENTIALS_DIRECTORY`, which systemd sets for a unit with `LoadCredential=` and a
container can. A file in it is a value, and its name the variable: `PG_URL`, say.

A file that holds a secret and that everybody on the machine may read or write stops the start: `chmod 640` it.

Booleans are `true` or `false`; `on`, `off`, `yes`, `no`, `1` and `0` mean the same. Lists are separated by commas.
"""

AFTERWORD = """\
## The database in parts

The database can also be given as `POSTGRES_HOST` (or `POSTGRES_SERVER`), `POSTGRES_PORT` (5432), `POSTGRES_DATABASE`
(or `POSTGRES_DB`; `hx_gateway`), `POSTGRES_USER` (`postgres`) and `POSTGRES_PASSWORD`, each as it is, not
percent-encoded. The first of `PG_URL`, `DATABASE_URL`, `DATABASE_URI` and the parts is used; others that say something
else are named in a warning.

## Data directory

`HX_DATA_DIR` is where state is kept: the admin key (`admin.key`), what keys are hashed with (`peppers.json`), what is
known of them for a start without the database (`keys.snapshot`), the journals (`journal/`), the embedded stores
(`postgres/`, `valkey/`) and the workers' metrics (`metrics/`). `make run` sets it to `.data`. Without it the gateway
uses `$STATE_DIRECTORY`, which systemd sets for a unit with `StateDirectory=`; in any other systemd unit
`/var/lib/hx-gateway`; elsewhere `$XDG_STATE_HOME/hx-gateway`, which is `~/.local/state/hx-gateway` where that variable
is not set.

## Variables for models

A [model file](../howto/litellm.md) can take any value from the environment with `os.environ/NAME`. Beside that, these
are read for entries that do not say it themselves: `OPENAI_API_KEY` for entries that go to OpenAI, `OLLAMA_API_BASE`,
`HOSTED_VLLM_API_BASE` and `LITELLM_PROXY_API_BASE` for the address of such a server.
"""


def main() -> None:
    """Write all three; with ``--check`` fail instead when one is not current."""
    readme = README.read_text(encoding="utf-8")
    wanted = {
        SETTINGS_PAGE: settings_page(),
        ENVIRONMENT_FILE: environment_file(),
        README: README_TABLE.sub(lambda found: found[1] + readme_table() + found[2], readme),
    }
    for path, text in wanted.items():
        if "--check" in sys.argv[1:]:
            if path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path.relative_to(ROOT)} is not current: run scripts/docs_reference.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def settings_page() -> str:
    """Return the reference as Markdown."""
    lines = [INTRODUCTION]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += [] if name == "host" else [""]
            lines += [f"## {SECTIONS[name]}", "", "| variable | default | value | what it is |", "|---|---|---|---|"]
        variables = "`, `".join(variables_of(name))
        lines.append(f"| `{variables}` | {_code(field.default)} | {allowed(name, field)} | {described(name, field)} |")
    return "\n".join([*lines, "", AFTERWORD])


def readme_table() -> str:
    """Return the settings that a first look at the project needs."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for name in README_FIELDS:
        field = Settings.model_fields[name]
        lines.append(f"| `{variables_of(name)[0]}` | {_code(field.default)} | {described(name, field)} |")
    return "\n".join([*lines, ""])


def environment_file() -> str:
    """Return the example: every setting that is not a secret, commented out with its default."""
    secrets = [variables_of(name)[0] for name, field in Settings.model_fields.items() if is_secret(field)]
    half = len(secrets) // 2
    lines = [
        "# Settings of HX Gateway that are not secret. Each line is a default, commented out: remove the # to set it.",
        "# A line without a value stands for a setting that has none: leave it commented out unless you give one.",
        f"# Secrets ({', '.join(secrets[:half])},",
        f"# {', '.join(secrets[half:])}) belong in gateway.env, mode 0640.",
    ]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"# {SECTIONS[name]}"]
        if not is_secret(field):
            lines += ["", f"# {described(name, field)}", f"#{variables_of(name)[0]}={_plain(field.default)}"]
    return "\n".join([*lines, ""])


def is_secret(field: FieldInfo) -> bool:
    """Return whether the value must not be shown."""
    return SecretStr in _types(field.annotation)


def described(name: str, field: FieldInfo) -> str:
    """Return what a setting is, and whether it does anything in this version."""
    return f"{field.description} Without effect in this version." if name in WITHOUT_EFFECT else str(field.description)


def allowed(name: str, field: FieldInfo) -> str:
    """Return what values a setting takes, in words."""
    kinds = _types(field.annotation)
    literals = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    if literals:
        return ", ".join(f"`{value}`" for value in literals)
    if name == "admin_key":
        return f"secret, {ADMIN_KEY_MIN_LENGTH} characters or more"
    if name in URLS_WITH_NONE:
        return f"URL{', secret' if SecretStr in kinds else ''}, or `{NOT_CONFIGURED}`"
    simple: dict[Any, str] = {SecretStr: "secret", Path: "path", bool: "boolean", tuple: "list"}
    for kind, words in simple.items():
        if kind in kinds or any(get_origin(found) is kind for found in kinds):
            return words
    if int in kinds or float in kinds:
        return _range(name, field)
    return "URL" if name.endswith("_url") else "text"


def _range(name: str, field: FieldInfo) -> str:
    least = next((_number(rule.ge) for rule in field.metadata if isinstance(rule, Ge)), None)
    above = next((f"above {_number(rule.gt)}" for rule in field.metadata if isinstance(rule, Gt)), None)
    most = next((_number(rule.le) for rule in field.metadata if isinstance(rule, Le)), None)
    unit = "seconds, " if SECONDS.search(name) and not str(field.description).startswith("Seconds") else ""
    if most is None:
        return unit + (above or f"{least} or more")
    return unit + (f"{above}, at most {most}" if above else f"{least} to {most}")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def _types(annotation: object) -> set[Any]:
    """Return ``annotation`` and every type that stands in it; literals are not looked into."""
    found = {annotation}
    if get_origin(annotation) in (Union, types.UnionType):
        found |= {inner for part in get_args(annotation) for inner in _types(part)}
    return found


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code(value: object) -> str:
    plain = _plain(value)
    return f"`{plain}`" if plain else ""


if __name__ == "__main__":
    main()
