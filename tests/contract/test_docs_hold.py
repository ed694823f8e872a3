"""What the documentation says holds: links, limits, code blocks, and the example of an environment file."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import uvicorn
from ruamel.yaml import YAML
from scripts.docs_reference import ENVIRONMENT_FILE, is_secret

from hx_gateway.access.authenticator import KeyRules
from hx_gateway.access.throttle import MAX_FAILURES
from hx_gateway.gateway.config_document import MAX_FILE_BYTES
from hx_gateway.gateway.model_config import load_model_config
from hx_gateway.gateway.model_table import build_model_table
from hx_gateway.http.bodies import MAX_BODY_BYTES as MAX_ADMIN_BODY_BYTES
from hx_gateway.http.head_check import MAX_LINE_BYTES
from hx_gateway.http.protocol import EdgeLimits
from hx_gateway.kit.json_object import MAX_CONTAINERS, MAX_DEPTH, MAX_INTEGER_DIGITS, WHOLE_DECODE_BYTES
from hx_gateway.kit.sse import MAX_EVENT_BYTES
from hx_gateway.limits.durable import GIVE_UP_SECONDS
from hx_gateway.limits.meter import MeterOptions
from hx_gateway.pipeline.model_call import WHOLE_ANSWER_BYTES
from hx_gateway.pipeline.stages.security import MAX_KEY_LENGTH
from hx_gateway.pipeline.upstream_answers import MAX_ERROR_BODY_BYTES, MAX_RETRY_AFTER_SECONDS
from hx_gateway.services.dsn import place_of, postgres_dsn, redis_dsn
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.upstream import http_client, http_connection
from hx_gateway.services.upstream.base import Timeouts
from hx_gateway.settings import Settings, load_settings, variables_of
from hx_gateway.translate.embeddings import CONCURRENCY
from hx_gateway.translate.openai import MAX_CAP, MAX_CHOICES, MAX_INPUTS, MAX_MESSAGES, MAX_MODEL_LENGTH
from tests.contract.doc_pages import DOCS, PAGES, ROOT, anchors, blocks, example, name_of, read, rows, spans

# Written in parts, so that this file does not hold what it looks for.
LOCAL_AND_REGISTRIES = (
    *(f"/{folder}/" for folder in ("work", "root")),
    *(".".join(parts) for parts in (("pypi", "org"), ("files", "pythonhosted"), ("registry", "npmjs"))),
    *(f"{part}.debian.org" for part in ("deb",)),
)
EXAMPLE_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\w+\.example\.org)(?::\d+)?")
EDGE = EdgeLimits()
SETTINGS = Settings()
TIMEOUTS = Timeouts()


def default(service: type, parameter: str) -> object:
    return inspect.signature(service).parameters[parameter].default


def kib(size: int) -> str:
    return f"{size // 1024} KiB"


def mib(size: int) -> str:
    return f"{size // 1024**2} MiB"


CONNECTION = {
    "head of a request": kib(EDGE.max_head_bytes),
    "header fields": f"{EDGE.max_fields}",
    "request line": kib(MAX_LINE_BYTES),
    "header line": kib(MAX_LINE_BYTES),
    "time for the head": f"{EDGE.head_seconds:g} s",
    "pause within a body": f"{EDGE.body_idle_seconds:g} s",
    "chunk extensions and trailers": f"{kib(EDGE.max_chunk_extension_bytes)} a request",
    "body that comes after its answer": f"{EDGE.linger_seconds:g} s",
    "sent ahead while a request is answered": kib(EDGE.max_pipelined_bytes),
    "client that does not read": f"{EDGE.write_stall_seconds:g} s",
    "connection kept open after an answer": f"{uvicorn.Config('no:app').timeout_keep_alive} s",
    "connections": "`HX_MAX_CONNECTIONS` a worker",
}
REQUEST = {
    "JSON body": f"`HX_MAX_BODY_BYTES`, {mib(SETTINGS.max_body_bytes)}",
    "depth of arrays and objects": f"{MAX_DEPTH}",
    f"arrays and objects, in a body over {kib(WHOLE_DECODE_BYTES)}": f"{MAX_CONTAINERS:,}",
    "digits of an integer": f"{MAX_INTEGER_DIGITS:,}",
    "key of a client": f"{MAX_KEY_LENGTH} characters",
    "`model`": f"{MAX_MODEL_LENGTH} characters",
    "`messages`": f"{MAX_MESSAGES:,}",
    "`input`, a list": f"{MAX_INPUTS:,} texts or token lists",
    "`n`, `best_of`": f"{MAX_CHOICES}",
    "`max_tokens`, `max_completion_tokens`, `dimensions`": f"1 to {MAX_CAP}",
}
ANSWER = {
    "time to connect": f"{TIMEOUTS.connect:g} s",
    "time until the answer begins": f"`HX_UPSTREAM_HEAD_TIMEOUT`, {SETTINGS.upstream_head_timeout:g} s",
    "pause within an answer": f"`HX_UPSTREAM_IDLE_TIMEOUT`, {SETTINGS.upstream_idle_timeout:g} s",
    "whole answer": f"`HX_UPSTREAM_TOTAL_TIMEOUT`, {SETTINGS.upstream_total_timeout:g} s",
    "head of an answer": kib(http_client.MAX_HEAD_BYTES),
    "header fields of an answer": f"{http_connection.MAX_FIELDS}",
    "answer read whole before it is sent": mib(WHOLE_ANSWER_BYTES),
    "event of a stream held back": mib(MAX_EVENT_BYTES),
    "error of a model's server that is passed on": kib(MAX_ERROR_BODY_BYTES),
    "`retry-after` passed on": f"{MAX_RETRY_AFTER_SECONDS} s",
    "Ollama's embeddings, one text a call": f"{CONCURRENCY} calls at a time",
    "connections to model servers": "`HX_UPSTREAM_MAX_CONNECTIONS` a worker",
}
CALLS = {
    "wrong keys from one address": f"{MAX_FAILURES} a minute",
    "body of an admin route": mib(MAX_ADMIN_BODY_BYTES),
    "look-up of a key": f"{KeyRules().look_up_timeout:g} s",
    "known key while PostgreSQL is away": f"`HX_KEY_STALE_MAX`, {SETTINGS.key_stale_max:.0f} s",
    "output of a call under a budget whose client names no cap": (
        f"`HX_DEFAULT_MAX_OUTPUT`, {SETTINGS.default_max_output:,} tokens"
    ),
    "slot or reservation of a call that nobody renews": f"{MeterOptions().lease:g} s",
    "worker of a lost host at a [change of epoch](../explanation/accounting.md#epochs)": f"{GIVE_UP_SECONDS:g} s",
}
STORE = {
    "PostgreSQL: time to connect, health check": f"{default(PostgresService, 'connect_timeout'):g} s",
    "Redis: time to connect, health check": f"{default(RedisService, 'connect_timeout'):g} s",
    "Qdrant: health check": f"{default(QdrantService, 'timeout'):g} s",
    "heartbeat of a watch": f"every {HEARTBEAT_SECONDS:g} s, {HEARTBEAT_TIMEOUT_SECONDS:g} s to answer",
    "connections of the embedded PostgreSQL": f"{default(EmbeddedPostgres, 'max_connections')}",
    "memory of the embedded Valkey": "64 MiB; it refuses writes beyond that",
    "model file": mib(MAX_FILE_BYTES),
}


@pytest.mark.parametrize(
    ("heading", "limits"),
    [
        ("## Of a connection", CONNECTION),
        ("## Of a request to a model", REQUEST),
        ("## Of a model's answer", ANSWER),
        ("## Of keys and calls", CALLS),
        ("## Of a store", STORE),
    ],
)
def test_the_limits_are_those_documented(heading: str, limits: dict[str, str]) -> None:
    section = read("reference/limits.md").partition(heading)[2]
    table = rows(section, next(line for line in section.splitlines() if line.startswith("| what | limit |")))
    assert {row[0]: row[1] for row in table} == limits


# Links and words


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        target, _, anchor = link.partition("#")
        assert "://" not in target, f"{target}: link to pages of the project"
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), link
        assert not anchor or anchor in anchors(page.read_text()), link


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_lists_read_the_same_in_the_repository_and_on_the_site(path: Path) -> None:
    """The site's Markdown wants an empty line before a list, and four spaces before what is below an item."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    item = r"(?:[-*+]|\d+\.) "
    assert re.findall(rf"^(?!\s|{item}).+\n{item}.*", text, re.MULTILINE) == []
    assert re.findall(rf"^(?! {{4}}\S) +{item}.*", text, re.MULTILINE) == []


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        targets = re.findall(r"\]\(([^)#]+\.md)", path.read_text())
        waiting += {(path.parent / target).resolve() for target in targets} - reached
    # Written by a long run, and not part of what is read in order.
    assert {name_of(path) for path in set(DOCS.rglob("*.md")) - reached} <= {"docs/verification.md"}


@pytest.mark.parametrize("path", [*PAGES, ENVIRONMENT_FILE], ids=name_of)
def test_nothing_local_and_no_registry_is_named_and_hosts_are_made_up(path: Path) -> None:
    text = path.read_text()
    assert [word for word in LOCAL_AND_REGISTRIES if word in text] == []
    hosts = re.findall(r"[a-z]+://(?:[^\s/@`]*@)?([^\s/`\"',;)?]+)", text)
    assert [host for host in hosts if not EXAMPLE_HOST.fullmatch(host)] == []


# Code blocks


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_code_blocks_are_of_their_language(path: Path) -> None:
    for block in blocks(path.read_text()):
        match block.language:
            case "json":
                json.loads(block.text)
            case "yaml":
                YAML(typ="safe").load(block.text)
            case "python":
                compile(block.text, name_of(path), "exec")
            case "sh":
                subprocess.run(["sh", "-n", "-c", block.text], check=True)
            case other:
                assert other in ("", "nginx")


def test_the_model_file_of_the_guide_needs_no_warning(tmp_path: Path) -> None:
    text = example(read("howto/models.md"), "model file")
    (tmp_path / "config.yaml").write_text(text)
    config = load_model_config(tmp_path / "config.yaml", {"OPENAI_API_KEY": "sk-made-up"})
    assert config.warnings == ()
    table = build_model_table(
        litellm_base_url=None, litellm_api_key=None, config=config, openai_api_key=None, demo=False
    )
    assert set(table.names()) == {"fast", "local", "notes", "quick"}


def test_the_urls_of_the_guide_to_stores_are_accepted() -> None:
    table = rows(read("howto/stores.md"), "| store | setting | form |")
    postgres, redis, qdrant = (spans(form)[0] for _, _, form in table)
    assert place_of(postgres_dsn(postgres)) == "postgresql://db.example.org:5432/hx_gateway"
    assert place_of(redis_dsn(redis)) == "rediss://cache.example.org:6379/0"
    assert Settings(QDRANT_URL=qdrant).qdrant_url == qdrant
    assert "p@ss" in unquote(postgres)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_the_nginx_configuration_of_the_guide_is_valid(tmp_path: Path) -> None:
    location = next(block.text for block in blocks(read("howto/network.md")) if block.language == "nginx")
    head = f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
    (tmp_path / "nginx.conf").write_text(
        head + f"http {{ access_log off; server {{ listen 127.0.0.1:1; {location} }} }}"
    )
    command = ["nginx", "-t", "-q", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# The example of an environment file


def assignments() -> list[tuple[str, str]]:
    return re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", ENVIRONMENT_FILE.read_text(), re.MULTILINE)


def test_the_environment_file_names_every_setting_that_is_no_secret_once() -> None:
    open_fields = [name for name, field in Settings.model_fields.items() if not is_secret(field)]
    assert [name for name, _ in assignments()] == [variables_of(name)[0] for name in open_fields]


def test_the_environment_file_sets_nothing_as_it_is() -> None:
    lines = ENVIRONMENT_FILE.read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_the_environment_file_holds_the_defaults_and_no_credential(tmp_path: Path) -> None:
    given = {name: value for name, value in assignments() if value}
    (tmp_path / "all.env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    loaded = load_settings({}, env_files=[tmp_path / "all.env"])
    assert loaded.settings == Settings()
    assert loaded.warnings == ()
    without_value = {name for name, value in assignments() if not value}
    fields = {variables_of(name)[0]: field for name, field in Settings.model_fields.items()}
    assert all(not fields[name].default for name in without_value)
    assert re.search(r"sk-|://[^/\s]*@", ENVIRONMENT_FILE.read_text()) is None


# The lock files


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-docs.lock"])
def test_the_lock_files_hold_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    packages = re.findall(r"^([a-z0-9][\w.-]*)==", text, re.MULTILINE)
    assert len(packages) > 20
    assert text.count("--hash=sha256:") > len(packages)
