"""What the pages about the record say to type works, and the tables they list are those there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hx_gateway.observability.tables import FORMATS
from tests.contract.doc_pages import example, read, spans
from tests.fixtures.gateway import NO_STORES, Gateway
from tests.fixtures.servers import Servers

PAGE = "howto/events.md"


@pytest.fixture(scope="module")
def recording(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway that has a database."""
    environ = {**NO_STORES, "PG_URL": servers.postgres.url, "HX_EVENT_BATCH_MS": "100"}
    gateway = Gateway(environ, tmp_path_factory.mktemp("recording"))
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def run(script: str, gateway: Gateway, folder: Path) -> list[dict[str, object]]:
    """Run a shell example in a folder that has the key; return the JSON objects it prints."""
    (folder / ".data").mkdir()
    (folder / ".data" / "admin.key").write_text(gateway.key + "\n")
    script = script.replace("http://127.0.0.1:4010", gateway.url)
    done = subprocess.run(["sh", "-e", "-c", script], cwd=folder, capture_output=True, check=True)
    decoder, text, answers = json.JSONDecoder(), done.stdout.decode().strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].strip()
    return answers


def test_the_readme_records_an_event(recording: Gateway, tmp_path: Path) -> None:
    script = example((Path(__file__).parents[2] / "README.md").read_text(), "record")
    (answer,) = run(script, recording, tmp_path)
    assert (answer["accepted"], answer["rejected"]) == (1, 0)


def test_the_events_of_the_how_to_are_kept_and_read_back(recording: Gateway, tmp_path: Path) -> None:
    kept, page = run(example(read(PAGE), "record curl"), recording, tmp_path)
    assert (kept["accepted"], kept["rejected"]) == (2, 0)
    items = page["items"]
    assert isinstance(items, list)
    assert {item["agent_name"] for item in items} == {"agent-debug"}


def test_the_library_example_needs_the_database_only(servers: Servers, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PG_URL": servers.postgres.url, "HX_JOURNAL_DIR": str(tmp_path / "journal")}
    script = example(read(PAGE), "record library")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1] == "True healthy"


def test_every_column_is_documented() -> None:
    text = read("reference/record.md")
    parts = {part.split("\n", 1)[0].strip(): part for part in text.split("\n## ")}
    rows = [line for line in parts["In every table"].splitlines() if line.startswith("| `")]
    common = {name for line in rows for name in spans(line.split("|")[1])}
    for form in FORMATS.values():
        lines = [line for line in parts[form.table].splitlines() if line.startswith("| `")]
        documented = {name for line in lines for name in spans(line.split("|")[1])}
        assert documented | common >= set(form.names), form.table
        assert documented <= set(form.names), form.table
