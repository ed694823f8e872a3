"""What every command does first: read the settings, find the data directory and the admin key, or say what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr

from hx_gateway.access.admin_key import load_or_create_admin_key
from hx_gateway.setting_sources import default_data_dir
from hx_gateway.setting_values import check_admin_key
from hx_gateway.settings import (
    LoadedSettings,
    Settings,
    SettingsError,
    load_settings,
)

# sysexits.h: the configuration is wrong, and starting again would not help.
EX_CONFIG = 78


@dataclass(frozen=True, slots=True)
class Installation:
    """Settings that are complete: with a data directory that exists and an admin key."""

    loaded: LoadedSettings
    settings: Settings
    data_dir: Path
    key_is_new: bool


def fail(*lines: str, code: int = EX_CONFIG) -> NoReturn:
    """Print ``lines`` to standard error and leave with ``code``."""
    for line in lines:
        sys.stderr.write(f"hx-gateway: {line}\n")
    raise SystemExit(code)


def read_settings(env_files: tuple[Path, ...] = (), **overrides: object) -> LoadedSettings:
    """Return the settings, or leave with one line for each bad value."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return load_settings(env_files=env_files, overrides=given)
    except SettingsError as error:
        fail(*str(error).splitlines())


def open_installation(loaded: LoadedSettings, environ: Mapping[str, str] = os.environ) -> Installation:
    """Return settings with their data directory (made for us alone) and admin key (made on the first start)."""
    settings = loaded.settings
    # As root the embedded PostgreSQL runs as another account, which must be able to pass; files are closed anyway.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    data_dir = (settings.data_dir or default_data_dir(environ)).expanduser().absolute()
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=mode)
        probe = data_dir / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        fail(f"cannot write to the data directory {str(data_dir)!r}: {error.strerror}. Set HX_DATA_DIR to another one.")
    is_new = False
    if settings.admin_key is None:
        try:
            key, is_new = load_or_create_admin_key(data_dir)
        except OSError as error:
            fail(f"{str(data_dir / 'admin.key')!r} {error.strerror}.")
        try:
            check_admin_key(key)
        except ValueError as error:
            fail(f"the key in {str(data_dir / 'admin.key')!r} {error}; delete the file to have one made.")
        settings = settings.model_copy(update={"admin_key": SecretStr(key)})
    return Installation(loaded, settings.model_copy(update={"data_dir": data_dir}), data_dir, is_new)
