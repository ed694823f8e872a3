"""The drop-ins of the two units: where their environment comes from. Nothing secret stands in one."""

from __future__ import annotations

from pathlib import PurePosixPath

from hx_gateway.wiring.layout import CORE_UNIT, Layout

_HEAD = "# Written by hx-gateway wire; hx-gateway unwire takes it away.\n[Service]\n"
_CACHE_VARIABLES = {
    "LITELLM_CACHE": "1",
    "LITELLM_RATE_LIMIT_ENABLED": "1",
    "LITELLM_RATE_LIMIT_TOKENS_PER_MINUTE": "60",
}


def database_drop_in(layout: Layout, unit: str) -> str:
    """Return what gives a unit its stores: of two files that name a variable the last one wins."""
    if unit == CORE_UNIT:
        config = _path(layout.config)
        variables = {"LITELLM_CONFIG": config, "CONFIG_FILE_PATH": config}
        return f"{_HEAD}EnvironmentFile={_path(layout.secrets)}\n{_environment(variables)}"
    return f"{_HEAD}EnvironmentFile={_path(layout.settings)}\nEnvironmentFile={_path(layout.secrets)}\n"


def cache_drop_in() -> str:
    """Return what turns a cache and limits on."""
    return _HEAD + _environment(_CACHE_VARIABLES)


def _environment(variables: dict[str, str]) -> str:
    return "".join(f'Environment="{name}={value}"\n' for name, value in variables.items())


def _path(path: PurePosixPath) -> str:
    """Return a path in which systemd sees no specifier."""
    return str(path).replace("%", "%%")
