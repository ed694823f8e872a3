"""Which settings are in force and where they came from, for people: without secrets."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from hx_gateway.services.dsn import place_of
from hx_gateway.settings import NOT_CONFIGURED, LoadedSettings, Settings, variables_of

HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is in force; secrets are hidden, also inside URLs."""

    variable: str
    value: str
    source: str


def effective_settings(loaded: LoadedSettings) -> list[Setting]:
    """Return every setting with its value and source."""
    return [
        Setting(variables_of(name)[0], shown(getattr(loaded.settings, name)), loaded.sources[name])
        for name in Settings.model_fields
    ]


def shown(value: object) -> str:
    """Return ``value`` for people: secrets hidden, a URL reduced to where it points."""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        if secret == NOT_CONFIGURED:
            return secret
        try:
            return place_of(secret) if "://" in secret else HIDDEN
        except ValueError:
            return HIDDEN
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, str) and "@" in value and "://" in value:
        return place_of(value)
    return str(value)
