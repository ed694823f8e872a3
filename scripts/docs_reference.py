"""Writes what can be read off the code: the reference of settings and the example of an environment file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from pydantic import SecretStr

from hx_gateway.settings import Settings, variables_of

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_PAGE = ROOT / "docs" / "reference" / "settings.md"
ENVIRONMENT_FILE = ROOT / "config" / "gateway-wrapper.env"


def main() -> None:
    """Write both files; with ``--check`` fail instead when one is not current."""
    wanted = {SETTINGS_PAGE: settings_page(), ENVIRONMENT_FILE: environment_file()}
    for path, text in wanted.items():
        if "--check" in sys.argv[1:]:
            if path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path.relative_to(ROOT)} is not current: run scripts/docs_reference.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def settings_page() -> str:
    """Return the reference as Markdown."""
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable, read once at the start. A bad value stops the start with a sentence",
        "that names it. `HX_ENV_FILE` names files (separated by `:`) with more of them; the environment wins, and",
        "`hx-gateway doctor` tells where each came from.",
        "",
        "The database can also be given in parts: `POSTGRES_HOST` (or `POSTGRES_SERVER`), `POSTGRES_PORT`,",
        "`POSTGRES_DATABASE` (or `POSTGRES_DB`), `POSTGRES_USER`, `POSTGRES_PASSWORD`. A URL wins over parts; two that",
        "disagree are named in a warning.",
        "",
        "| variable | default | what it is |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        variable = "`, `".join(variables_of(name))
        lines.append(f"| `{variable}` | {_default(field.default)} | {field.description} |")
    return "\n".join([*lines, ""])


def environment_file() -> str:
    """Return the example: every setting that is not a secret, commented out with its default."""
    lines = [
        "# Settings of HX Gateway that are not secret. Each line shows a default; remove the # to change it.",
        "# Secrets (HX_ADMIN_KEY, PG_URL, REDIS_URL, QDRANT_API_KEY, LITELLM_API_KEY, OPENAI_API_KEY) belong in",
        "# gateway.env, mode 0640.",
        "",
    ]
    for name, field in Settings.model_fields.items():
        if SecretStr in _types(field.annotation):
            continue
        lines += [f"# {field.description}", f"#{variables_of(name)[0]}={_plain(field.default)}", ""]
    return "\n".join(lines)


def _types(annotation: object) -> set[object]:
    return {annotation, *(inner for part in get_args(annotation) for inner in _types(part))}


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(value: object) -> str:
    plain = _plain(value)
    return f"`{plain}`" if plain else ""


if __name__ == "__main__":
    main()
