"""A real LiteLLM proxy, started as Compose starts it, behind a gateway that finds its key among its credentials."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.contract.doc_pages import ROOT
from tests.fixtures.gateway import ADMIN_KEY, Gateway, StartGateway, free_port
from tests.fixtures.litellm import MASTER_KEY, wait_alive

pytestmark = pytest.mark.peers

FOLDER = ROOT / "deploy" / "container"
SERVICE = YAML(typ="safe").load(FOLDER / "compose.yaml")["services"]["litellm"]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for name in SERVICE["secrets"]:
        (tmp_path / name).write_text(f"{MASTER_KEY}\n")
        (tmp_path / name).chmod(0o640)
    return tmp_path


@pytest.fixture
def litellm(secrets: Path) -> Iterator[int]:
    """Run the image's entry point with Compose's configuration, on a port of its own."""
    program = os.environ.get("HX_TEST_LITELLM")
    if program is None:
        pytest.skip("run by make test-peers, which installs LiteLLM")
    port = free_port()
    environ = {"PATH": f"{Path(program).parent}:{os.environ['PATH']}", "HOME": str(secrets)}
    environ |= {"CREDENTIALS_DIRECTORY": str(secrets), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [str(FOLDER / "litellm-entrypoint.sh"), "--config", str(FOLDER / "litellm.yaml")]
    with (secrets / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environ, cwd=secrets, stdout=log, stderr=log
        )
    try:
        wait_alive(process, port, secrets / "log")
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def gateway(start_gateway: StartGateway, litellm: int, secrets: Path) -> Gateway:
    return start_gateway({"LITELLM_BASE_URL": f"http://127.0.0.1:{litellm}", "CREDENTIALS_DIRECTORY": str(secrets)})


def test_the_models_of_compose_answer_through_both(gateway: Gateway) -> None:
    smoke = [sys.executable, "-m", "hx_gateway", "smoke", "--url", gateway.url, "--key", ADMIN_KEY]
    done = subprocess.run(
        [*smoke, "--embedding-length", "3", "--no-database"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "pass  hx-chat says exactly what it is told" in done.stdout
