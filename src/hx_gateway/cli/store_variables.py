"""The variables that name stores, for the commands that set hosts up: from the environment and from private files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from dotenv import dotenv_values

from hx_gateway.access.private_files import read_private
from hx_gateway.cli.start import fail

MAX_ENV_FILE_BYTES = 1024 * 1024


def given_variables(env_files: Sequence[Path], names: Sequence[str]) -> dict[str, str]:
    """Return those of ``names`` that the environment, which wins, or a file gives; the first file wins over others.

    Leaves with what is wrong with a file, such as that others may read it.
    """
    values: dict[str, str] = {}
    for path in reversed(env_files):
        try:
            text = read_private(path, MAX_ENV_FILE_BYTES).decode("utf-8")
        except OSError as error:
            fail(f"--env-file {str(path)!r}: {error.strerror}.")
        except UnicodeDecodeError:
            fail(f"--env-file {str(path)!r}: not valid UTF-8.")
        read = dotenv_values(stream=io.StringIO(text), interpolate=False)
        values |= {name: value for name, value in read.items() if value is not None}
    values |= os.environ
    return {name: values[name] for name in names if name in values}
