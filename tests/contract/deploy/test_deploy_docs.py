"""The pages on systemd, containers and Kubernetes name what is there, and as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hx_gateway import __version__
from hx_gateway.settings import SettingsError, load_settings
from hx_gateway.wiring.layout import DEFAULT_BASE, Layout
from hx_gateway.wiring.litellm_config import LITELLM_VERSION
from tests.contract.deploy.program import LONGEST_STOP_SECONDS
from tests.contract.doc_pages import ROOT, blocks, read, rows, spans

PAGES = ("howto/systemd.md", "howto/containers.md", "howto/kubernetes.md")
SECRETS = str(Layout(Path("/")).secrets)


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = read(page)
    named = set(re.findall(r"\bdeploy/(?:systemd|container|kubernetes)(?:/[\w.-]*\w)*", text))
    named |= set(re.findall(r"\brequirements[\w-]*\.lock", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_manifest_has_a_row() -> None:
    table = rows(read("howto/kubernetes.md"), "| file | what it makes |")
    files = {path.name for path in (ROOT / "deploy/kubernetes").iterdir()} - {"kustomization.yaml"}
    assert {spans(name)[0] for name, _ in table} == files


@pytest.mark.parametrize("page", PAGES)
def test_versions_are_of_this_version(page: str) -> None:
    text = read(page)
    assert set(re.findall(r"hx-gateway:(\d[\w.]*\w)", text)) <= {__version__}
    assert set(re.findall(r"(?:hx-litellm:|LiteLLM )(\d[\w.]*\w)", text)) <= {LITELLM_VERSION}


def test_what_is_told_of_a_file_of_secrets_is_what_the_program_says(tmp_path: Path) -> None:
    file = tmp_path / "gateway.env"
    file.write_text("PG_URL=postgresql://hx_gateway:made-up@db.example.org/hx_gateway\n")
    file.chmod(0o644)
    with pytest.raises(SettingsError) as caught:
        load_settings({"HX_ENV_FILE": str(file)})
    shown = next(block.text for block in blocks(read("howto/systemd.md")) if "holds PG_URL" in block.text)
    assert " ".join(shown.split()) == f"hx-gateway: {caught.value}".replace(str(file), SECRETS)
    assert str(DEFAULT_BASE) in shown


def test_whoever_supervises_the_gateway_is_told_to_wait_for_long_enough() -> None:
    waits = [int(seconds) for seconds in re.findall(r"TimeoutStopSec=(\d+)", read("howto/stop.md"))]
    waits += [int(seconds) for seconds in re.findall(r"--stop-timeout (\d+)", read("howto/containers.md"))]
    assert len(waits) == 2
    assert min(waits) > LONGEST_STOP_SECONDS
