"""The Compose file: valid by Compose's own schema, closed, pinned, and of one mind with the program and its secrets."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from hx_gateway import __version__
from hx_gateway.cli.smoke import smoke
from hx_gateway.gateway.model_config import load_model_config
from hx_gateway.setting_sources import CREDENTIALS_VARIABLE, is_secret
from hx_gateway.settings import load_settings
from hx_gateway.wiring.litellm_config import LITELLM_VERSION
from tests.contract.deploy.containerfile import assignments, exec_form, read_stages
from tests.contract.deploy.program import LONGEST_STOP_SECONDS, VARIABLES
from tests.contract.deploy.test_containerfile import FOLDER

COMPOSE: dict[str, Any] = YAML(typ="safe").load(FOLDER / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
SCHEMA = json.loads((Path(__file__).parent / "schemas/compose-spec.json").read_text())
STAGES = read_stages(FOLDER / "Containerfile")
OURS = {"gateway": f"hx-gateway:{__version__}", "litellm": f"hx-litellm:{LITELLM_VERSION}"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the script makes, for a group that is ours."""
    folder = tmp_path_factory.mktemp("container")
    shutil.copy(FOLDER / "make-secrets.sh", folder)
    make_secrets(folder)
    return folder / "secrets"


def make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "GROUP": str(os.getegid())}
    return subprocess.run(
        ["sh", str(folder / "make-secrets.sh")], env=environ, capture_output=True, text=True, check=False
    )


def test_it_is_what_compose_takes() -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(COMPOSE)


def test_the_schema_refuses_what_compose_does_not_take() -> None:
    wrong = COMPOSE | {"services": {"gateway": SERVICES["gateway"] | {"health_check": {}}}}
    assert not jsonschema_rs.validator_for(SCHEMA).is_valid(wrong)


def test_everything_that_belongs_to_it_is_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "qdrant", "litellm", "gateway"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_closed_bounded_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user", "from the image") != "0:0"
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service["healthcheck"]["test"][0] == "CMD"
    assert not service.get("privileged")


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == OURS.get(name, image)
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", image), image
    if name in OURS:
        assert SERVICES[name]["build"]["target"] == name
        assert (FOLDER / SERVICES[name]["build"]["context"] / SERVICES[name]["build"]["dockerfile"]).is_file()


def test_postgresql_is_not_older_than_16() -> None:
    assert int(re.findall(r"\d+", SERVICES["postgres"]["image"])[0]) >= 16


def test_no_secret_stands_in_the_file() -> None:
    environ = {name: value for service in SERVICES.values() for name, value in service.get("environment", {}).items()}
    assert [name for name, value in environ.items() if is_secret(name, value)] == []
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())


def test_every_secret_is_used_and_made(secrets: Path) -> None:
    used = {name for service in SERVICES.values() for name in service["secrets"]}
    assert used == COMPOSE["secrets"].keys()
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {f"./secrets/{name}" for name in used}
    assert {path.name for path in secrets.iterdir()} == used


def test_only_its_group_may_read_what_is_made(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o640}
    (group,) = {group for service in SERVICES.values() for group in service["group_add"]}
    assert STAGES["gateway"].only("USER").endswith(f":{group}")
    assert f"${{GROUP:-{group}}}" in (FOLDER / "make-secrets.sh").read_text()


def test_secrets_are_made_once_and_at_random(secrets: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    again = make_secrets(secrets.parent)
    assert again.returncode == 1
    assert "nothing is changed" in again.stderr
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    shutil.copy(FOLDER / "make-secrets.sh", tmp_path)
    assert make_secrets(tmp_path).returncode == 0
    assert [name for name, text in before.items() if (tmp_path / "secrets" / name).read_text() == text] == []


def test_the_gateway_starts_with_what_it_is_given(secrets: Path, tmp_path: Path) -> None:
    service = SERVICES["gateway"]
    for name in service["secrets"]:
        shutil.copy(secrets / name, tmp_path)
    given = assignments(STAGES["gateway"].all("ENV")) | service["environment"]
    assert given[CREDENTIALS_VARIABLE] == "/run/secrets"
    loaded = load_settings(given | {CREDENTIALS_VARIABLE: str(tmp_path)})
    assert loaded.warnings == ()
    assert not loaded.settings.embedded
    assert {loaded.sources[name] for name in ("pg_url", "redis_url", "admin_key", "litellm_api_key")} == {
        f"{tmp_path} ({name})" for name in ("PG_URL", "REDIS_URL", "HX_ADMIN_KEY", "LITELLM_MASTER_KEY")
    }


def test_every_variable_of_the_gateway_is_a_setting() -> None:
    assert SERVICES["gateway"]["environment"].keys() - {CREDENTIALS_VARIABLE} <= VARIABLES


def test_addresses_name_services_that_share_a_network_and_ports_that_they_have(secrets: Path) -> None:
    environ = SERVICES["gateway"]["environment"]
    urls = [(secrets / name).read_text() for name in ("PG_URL", "REDIS_URL")]
    urls += [environ["QDRANT_URL"], environ["LITELLM_BASE_URL"]]
    found = dict(re.findall(r"(?:@|//)([a-z]+):(\d+)(?:/|$)", "\n".join(urls), re.MULTILINE))
    assert found == {"postgres": "5432", "redis": "6379", "qdrant": "6333", "litellm": "4000"}
    for name in found:
        assert set(SERVICES[name]["networks"]) & set(SERVICES["gateway"]["networks"])
    assert found["litellm"] == STAGES["litellm"].only("EXPOSE")
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:4010:{STAGES['gateway'].only('EXPOSE')}"]


def test_stores_are_reached_from_within_only() -> None:
    for name in ("postgres", "redis", "qdrant"):
        assert "ports" not in SERVICES[name]
        assert all(COMPOSE["networks"][network]["internal"] for network in SERVICES[name]["networks"])


def test_the_health_of_our_own_images_is_asked_as_the_images_do() -> None:
    for name in OURS:
        port = STAGES[name].only("EXPOSE")
        inside = [word.replace("' + os.environ['WRAPPER_PORT'] + '", port) for word in exec_form(health(name))]
        assert [word.replace("import os, ", "import ") for word in inside] == SERVICES[name]["healthcheck"]["test"][1:]


def health(name: str) -> str:
    return STAGES[name].only("HEALTHCHECK")


def test_a_container_gets_longer_than_a_stop_takes() -> None:
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > LONGEST_STOP_SECONDS


def test_the_models_of_the_example_are_those_that_smoke_asks_for() -> None:
    config = load_model_config(FOLDER / "litellm.yaml", {"LITELLM_MASTER_KEY": "sk-made-up"})
    defaults = inspect.signature(smoke).parameters
    assert set(config.names) == {defaults["chat_model"].default, defaults["embedding_model"].default}


def test_the_scripts_are_of_a_plain_shell() -> None:
    for path in (*FOLDER.glob("*.sh"), *FOLDER.glob("postgres/*.sh")):
        assert path.stat().st_mode & stat.S_IXOTH
        subprocess.run(shlex.split(f"sh -n {shlex.quote(str(path))}"), check=True)
