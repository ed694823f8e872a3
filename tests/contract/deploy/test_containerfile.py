"""The Containerfile: it copies what is there, installs what is locked, and is of one mind with the program."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hx_gateway import __version__
from hx_gateway.settings import Settings, load_settings
from hx_gateway.wiring.litellm_config import LITELLM_VERSION
from hx_gateway.wiring.unit_steps import CORE_PORT
from tests.contract.deploy.containerfile import Stage, assignments, read_stages
from tests.contract.deploy.program import VARIABLES
from tests.contract.doc_pages import ROOT

FOLDER = ROOT / "deploy" / "container"
STAGES = read_stages(FOLDER / "Containerfile")
FINAL = {"gateway": __version__, "litellm": LITELLM_VERSION}
PINNED = re.compile(r"python:3\.\d+\.\d+-slim-[a-z]+")


def lineage(stage: Stage) -> list[Stage]:
    """Return a stage behind those that it is made from."""
    parent = STAGES.get(stage.parent)
    return [*(lineage(parent) if parent is not None else []), stage]


def sources(stage: Stage) -> list[str]:
    """Return what a stage copies from the project."""
    found = []
    for words in stage.all("COPY"):
        options = [word for word in words.split() if word.startswith("--")]
        *given, _ = [word for word in words.split() if not word.startswith("--")]
        found += [] if any(option.startswith("--from=") for option in options) else given
    return found


def test_every_stage_comes_from_one_pinned_slim_image() -> None:
    assert {lineage(stage)[0].parent for stage in STAGES.values()} == {STAGES["base"].parent}
    assert PINNED.fullmatch(STAGES["base"].parent)
    assert list(STAGES)[-1] == "gateway", "the image that is built where no target is named"


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    lines = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for stage in STAGES.values() for name in sources(stage)}
    assert lines[1] == "*"
    assert sent == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_stages_copy_from_stages_that_exist_before_them() -> None:
    before: list[str] = []
    for stage in STAGES.values():
        assert set(re.findall(r"--from=(\S+)", " ".join(stage.all("COPY")))) <= set(before)
        before.append(stage.name)


def test_nothing_is_installed_that_is_not_locked() -> None:
    installs = [
        command
        for stage in STAGES.values()
        for words in stage.all("RUN")
        for command in words.split("&&")
        if "pip " in command
    ]
    locks = set()
    for command in installs:
        if "-r" in command.split():
            assert "--require-hashes --only-binary :all:" in command
            locks.add(command.split()[-1])
        else:
            assert "--no-deps" in command
            assert "--no-index" in command or "--no-build-isolation" in command
    assert locks == {"build.lock", "requirements.lock", "requirements-litellm.lock"}


def test_the_gateway_is_installed_as_the_wheel_is_tested() -> None:
    gate = (ROOT / ".ci/run").read_text()
    for line in ("--require-hashes --only-binary :all: -r requirements.lock", "--no-deps"):
        assert line in gate
        assert any(line in words for words in STAGES["gateway-environment"].all("RUN"))


def test_what_builds_the_wheel_is_what_is_locked_for_development() -> None:
    def entries(path: Path) -> list[str]:
        return re.split(r"\n(?=\S)", path.read_text().strip())

    _, *build = entries(FOLDER / "build.lock")
    assert any(entry.startswith("hatchling==") for entry in build)
    assert [entry for entry in build if entry not in entries(ROOT / "requirements-dev.lock")] == []


def test_what_builds_the_wheel_is_locked_with_all_that_it_needs() -> None:
    locked = set(re.findall(r"^([a-z-]+)==", (FOLDER / "build.lock").read_text(), re.MULTILINE))
    needed = [Requirement(line) for name in locked for line in metadata.requires(name) or []]
    here = [found for found in needed if found.marker is None or found.marker.evaluate({"extra": ""})]
    assert {canonicalize_name(found.name) for found in here} <= locked


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_nobody_special_and_says_how_it_is(name: str) -> None:
    stage = STAGES[name]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", stage.only("USER"))
    assert f"--uid {stage.only('USER').partition(':')[0]} " in STAGES["base"].only("RUN")
    assert stage.only("HEALTHCHECK")
    assert assignments(stage.all("LABEL"))["org.opencontainers.image.version"] == FINAL[name]
    assert "RUN" not in {instruction for instruction, _ in stage.instructions}, "made in a stage that is left behind"


def test_the_gateway_s_image_holds_settings_that_exist_and_refuses_to_start_without_stores() -> None:
    given = assignments(STAGES["gateway"].all("ENV"))
    assert given.keys() - {"PATH"} <= VARIABLES
    assert not load_settings(given | {"PG_URL": "none", "REDIS_URL": "none", "QDRANT_URL": "none"}).settings.embedded
    assert STAGES["gateway"].only("EXPOSE") == given["WRAPPER_PORT"] == str(Settings().port)
    volume = PurePosixPath(given["HX_DATA_DIR"])
    assert f'["{volume}"]' == STAGES["gateway"].only("VOLUME")
    assert f"-o 10001 -g 10001 {volume}" in STAGES["base"].only("RUN")


def test_the_litellm_image_listens_where_the_gateway_looks_for_it() -> None:
    stage = STAGES["litellm"]
    assert stage.only("EXPOSE") == str(CORE_PORT)
    assert f'"--port", "{CORE_PORT}"' in stage.only("CMD")


def test_litellm_finds_its_secrets_in_its_environment(tmp_path: Path) -> None:
    program, secrets = tmp_path / "bin/litellm", tmp_path / "secrets"
    program.parent.mkdir()
    secrets.mkdir()
    program.write_text('#!/bin/sh\necho "$LITELLM_MASTER_KEY|$*"\n')
    program.chmod(0o755)
    (secrets / "LITELLM_MASTER_KEY").write_text("sk-made up\n")
    (secrets / "redis.acl").write_text("user\n")
    environ = {"PATH": f"{program.parent}:/usr/bin:/bin", "CREDENTIALS_DIRECTORY": str(secrets)}
    command = [str(FOLDER / "litellm-entrypoint.sh"), "--config", "x y"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("sk-made up|--config x y\n", "")
