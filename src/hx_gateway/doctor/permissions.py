"""Who may read secrets, and whether the gateway may read and write what is its own."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from dotenv import dotenv_values
from pydantic import SecretStr

from hx_gateway.access.admin_key import ADMIN_KEY_FILE
from hx_gateway.access.peppers import PEPPER_FILE
from hx_gateway.doctor.account import name_of
from hx_gateway.doctor.embedded import cluster_folder
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.settings import NOT_CONFIGURED, Settings, variables_of

# As for all files with secrets here: the owner writes, the group may read, others may nothing.
OTHERS_MAY = stat.S_IRWXO | stat.S_IWGRP
FOLDER_OTHERS_MAY = stat.S_IRWXO | stat.S_IRWXG
# Names of other programs' secrets in a file that is shared with them.
_SECRET_NAME = re.compile(r"(?:KEY|SECRET|TOKEN|PASS|PASSWORD|DATABASE_URL)$")


def examine_permissions(around: Surroundings) -> list[Finding]:
    """Look at the data directory, then at each file and folder with secrets that is there."""
    found = _data_directory(around)
    wrong = [finding for path in secret_files(around) for finding in _file(path)]
    wrong += [finding for folder in private_folders(around) for finding in _folder(folder)]
    return [*found, *(wrong or [ok(Subject.PERMISSIONS, "secrets are closed to others")])]


def secret_files(around: Surroundings) -> Iterator[Path]:
    """Yield the files that hold secrets, whether they are there or not."""
    settings = around.settings
    yield around.data_dir / ADMIN_KEY_FILE
    yield settings.pepper_file or around.data_dir / PEPPER_FILE
    yield cluster_folder(around) / "credentials.json"
    if settings.tls_key is not None:
        yield settings.tls_key
    yield around.layout.at(around.layout.secrets)
    for path in around.env_files:
        if holds_secret(path):
            yield path


def private_folders(around: Surroundings) -> Iterator[Path]:
    """Yield the folders that the gateway makes for itself alone, whether they are there or not."""
    yield around.journal_dir
    yield cluster_folder(around) / "cluster"


def holds_secret(path: Path) -> bool:
    """Return whether an environment file sets a variable whose value is a secret. One that cannot be read might."""
    try:
        given = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError):
        return True
    ours = _variables()
    return any(
        value and value != NOT_CONFIGURED and ours.get(name, _SECRET_NAME.search(name) is not None)
        for name, value in given.items()
    )


def _variables() -> dict[str, bool]:
    """Return our own variables, and whether what they hold is secret: a path to a key is not."""
    return {
        variable: field.annotation is SecretStr or SecretStr in get_args(field.annotation)
        for name, field in Settings.model_fields.items()
        for variable in variables_of(name)
    }


def _data_directory(around: Surroundings) -> list[Finding]:
    folder = around.data_dir
    try:
        status = folder.stat()
    except FileNotFoundError:
        return [note(Subject.DATA_DIRECTORY, f"{folder} does not exist yet; the first start makes it")]
    except OSError as error:
        return [_unusable(folder, error.strerror or "not accessible")]
    if not stat.S_ISDIR(status.st_mode):
        return [_unusable(folder, "not a folder")]
    if not _may(folder, os.R_OK | os.W_OK | os.X_OK):
        return [_unusable(folder, f"{name_of(status.st_uid)}'s, and not writable by {name_of(os.geteuid())}")]
    if status.st_mode & stat.S_IWOTH:
        detail = f"{folder} is writable by everybody: others could put keys there"
        return [problem(Subject.DATA_DIRECTORY, detail, f"chmod o-w {folder}, or set HX_DATA_DIR to another one.")]
    return [ok(Subject.DATA_DIRECTORY, str(folder))]


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _unusable(folder: Path, why: str) -> Finding:
    remedy = f"Set HX_DATA_DIR to another one, or give it to the gateway's account: chown ACCOUNT {folder}."
    return problem(Subject.DATA_DIRECTORY, f"{folder}: {why}", remedy)


def _file(path: Path) -> list[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return []  # not there, or behind a folder that the look at the data directory tells of
    if mode & OTHERS_MAY:
        detail = f"{path} holds secrets and is open to others ({stat.filemode(mode)})"
        return [problem(Subject.PERMISSIONS, detail, f"chmod o-rwx,g-w {path}, and change what was in it.")]
    if not _may(path, os.R_OK):
        detail = f"{path} cannot be read by {name_of(os.geteuid())}"
        return [problem(Subject.PERMISSIONS, detail, f"chown it, or give the account its group: chgrp GROUP {path}.")]
    return []


def _folder(folder: Path) -> list[Finding]:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return []
    if mode & FOLDER_OTHERS_MAY:
        detail = f"{folder} is open to others ({stat.filemode(mode)})"
        return [problem(Subject.PERMISSIONS, detail, f"chmod 700 {folder}")]
    return []
