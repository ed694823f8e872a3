"""Types what the documentation says to type."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hx_gateway.cli.main import app as command_line
from tests.acceptance.people import People
from tests.contract.doc_pages import blocks, read

# These read settings, and ask no gateway.
WITHOUT_ADDRESS = ("db", "doctor", "version")
COMMAND = """\
#!/bin/sh
case "$1 $*" in
  db\\ *|doctor\\ *|version\\ *|*\\ --url\\ *) exec {python} -m hx_gateway "$@" ;;
  *) exec {python} -m hx_gateway "$@" --url {url} ;;
esac
"""


class Shell:
    """Types examples where ``hx-gateway`` and the admin key are, and ``KEY`` is that key.

    ``folder`` may have a ``.data`` with the key already.
    """

    def __init__(self, people: People, folder: Path) -> None:
        self._gateway = people.gateway
        self._folder = folder
        commands = folder / ".venv" / "bin"
        commands.mkdir(parents=True)
        (commands / "hx-gateway").write_text(COMMAND.format(python=shlex.quote(sys.executable), url=self._gateway.url))
        (commands / "hx-gateway").chmod(0o755)
        (folder / ".data").mkdir(exist_ok=True)
        if not (folder / ".data" / "admin.key").exists():
            (folder / ".data" / "admin.key").write_text(self._gateway.key + "\n")
        self._path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(self, text: str) -> str:
        """Run an example as it is; return what it prints."""
        command = ["sh", "-e", "-c", text.replace("http://127.0.0.1:4010", self._gateway.url)]
        environ = {**os.environ, "PATH": self._path, "KEY": self._gateway.key, "COLUMNS": "200"}
        done = subprocess.run(command, cwd=self._folder, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def type(self, text: str) -> Iterator[str]:
        """Run an example line by line; yield what each prints. Our own command runs in this process, to be quicker."""
        if not re.search("^hx-gateway ", text, re.MULTILINE):
            yield self.run(text)
            return
        for line in text.replace("\\\n", "").splitlines():
            if not line.startswith("hx-gateway "):
                yield self.run(line)
                continue
            words = shlex.split(os.path.expandvars(line))[1:]
            if words[0] not in WITHOUT_ADDRESS and "--url" not in words:
                words += ["--url", self._gateway.url]
            environ = {"HX_ADMIN_KEY": self._gateway.key, "COLUMNS": "300"}
            result = CliRunner().invoke(command_line, words, env=environ)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            yield result.stdout


def shell(page: str) -> list[str]:
    """Return the shell examples of a page in their order."""
    return [block.text for block in blocks(read(page)) if block.language == "sh"]


def filled(text: str, marks: Mapping[str, str]) -> str:
    """Return an example with the ids that there are instead of those that it shows."""
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text


def answers(text: str) -> list[Any]:
    """Return the JSON values that stand in ``text`` one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found
