"""LiteLLM's pair: what its unit, its configuration, its environment and the running proxy say."""

from __future__ import annotations

import sys
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from aiohttp import web

from hx_gateway.doctor.core_unit import CoreUnit, is_safe_to_run, read_core_unit
from hx_gateway.doctor.findings import Finding, Surroundings
from hx_gateway.doctor.litellm import READINESS_PATHS, Installed, ask_python, callbacks_of, examine_litellm
from hx_gateway.doctor.programs import ProgramFailed, output_of
from hx_gateway.settings import Settings
from hx_gateway.wiring.layout import Layout
from hx_gateway.wiring.litellm_config import LITELLM_VERSION

# As these versions have it in litellm/integrations/langfuse/langfuse.py.
OF_1_74 = 'if Version(self.langfuse_sdk_version) >= Version("2.6.0"):\n    parameters["sdk_integration"] = "litellm"\n'
OF_1_108 = 'MINIMUM_LANGFUSE_VERSION: Final = "4.7"\nUNSUPPORTED_LANGFUSE_VERSION: Final = "5"\n'
OTEL = "LangfuseOtelLogger"
UNIT = "etc/systemd/system/hx-litellm-gateway.service"
LANGFUSE_CONFIG = "litellm_settings:\n  success_callback: [langfuse]  # shared\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment of its own for LiteLLM, and give its root: ``opt/litellm`` of a tree."""
    root = tmp_path_factory.mktemp("host")
    venv.create(root / "opt/litellm", symlinks=True)
    return root


def install(root: Path, source: str = "", **versions: str) -> Path:
    """Put made-up distributions into the environment, in the place of those of before; return its Python."""
    (site,) = (root / "opt/litellm").glob("lib/python*/site-packages")
    for old in site.glob("*.dist-info/METADATA"):
        old.unlink()
        old.parent.rmdir()
    for name, number in versions.items():
        folder = site / f"{name}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    module = site / "litellm/integrations/langfuse/langfuse.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(source)
    return root / "opt/litellm/bin/python"


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def around(
    root: Path, *, base: str | None = None, python: Path | None = None, config: Path | None = None
) -> Surroundings:
    given = {} if base is None else {"LITELLM_BASE_URL": base, "LITELLM_API_KEY": "sk-made-up"}
    return Surroundings(
        settings=Settings.model_validate(given), layout=Layout(root), litellm_python=python, litellm_config=config
    )


def at(subject: str, findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.state, finding.detail) for finding in findings if finding.subject == subject]


@asynccontextmanager
async def proxy(answer: object, path: str = READINESS_PATHS[0]) -> AsyncIterator[str]:
    """Serve what a LiteLLM proxy says of itself."""

    async def readiness(request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer sk-made-up"
        return web.json_response(answer)

    app = web.Application()
    app.router.add_get(path, readiness)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


# The pair


@pytest.mark.parametrize(
    ("source", "litellm", "langfuse", "state", "said"),
    [
        (OF_1_74, "1.74.15", "2.60.10", "ok", "litellm 1.74.15 with langfuse 2.60.10"),
        (OF_1_74, "1.74.15", "3.15.0", "problem", "does not work, it needs >=2.45,<3: nothing is logged there"),
        (OF_1_108, "1.108.7", "4.18.0", "ok", "litellm 1.108.7 with langfuse 4.18.0"),
        (OF_1_108, "1.108.7", "2.60.10", "problem", "does not work, it needs >=4.7,<5: LiteLLM does not start"),
        (OF_1_108, "1.108.7", "5.0.0rc1", "problem", "does not work, it needs >=4.7,<5: LiteLLM does not start"),
        ("", "1.200.0", "4.18.0", "note", "what this litellm needs is not known"),
    ],
)
async def test_a_pair_is_judged_by_what_that_litellm_passes(
    environment: Path, tmp_path: Path, source: str, litellm: str, langfuse: str, state: str, said: str
) -> None:
    python = install(environment, source, litellm=litellm, langfuse=langfuse)
    config = write(tmp_path, "config.yaml", LANGFUSE_CONFIG)
    found = await examine_litellm(around(tmp_path, python=python, config=config))
    ((there, detail),) = at("Langfuse", found)
    assert there == state
    assert said in detail
    if state == "problem":
        needed = said.partition("needs ")[2].partition(":")[0]
        remedy = f"{python} -m pip install 'langfuse{needed}', then restart LiteLLM."
        assert [finding.remedy for finding in found if finding.subject == "Langfuse"] == [remedy]


async def test_a_callback_without_its_package_is_a_problem(environment: Path, tmp_path: Path) -> None:
    python = install(environment, OF_1_108, litellm=LITELLM_VERSION)
    text = "litellm_settings:\n  callbacks: langfuse_otel\n  failure_callback:\n    - langfuse\n"
    config = write(tmp_path, "config.yaml", text)
    found = await examine_litellm(around(tmp_path, python=python, config=config))
    assert at("LiteLLM", found) == [("ok", f"{LITELLM_VERSION} in {python}")]
    assert [state for state, _ in at("Langfuse", found)] == ["problem", "problem"]
    install(environment, OF_1_108, litellm=LITELLM_VERSION, opentelemetry_exporter_otlp_proto_http="1.45.1")
    found = await examine_litellm(around(tmp_path, python=python, config=config))
    assert [state for state, _ in at("Langfuse", found)] == ["ok", "problem"]


async def test_a_pair_that_nothing_asks_for_is_told_and_no_problem(environment: Path, tmp_path: Path) -> None:
    python = install(environment, OF_1_74, litellm="1.74.15", langfuse="3.15.0")
    found = await examine_litellm(around(tmp_path, python=python))
    assert [state for state, _ in at("Langfuse", found)] == ["note"]
    assert [state for state, _ in at("LiteLLM", found)] == ["note"]
    assert LITELLM_VERSION in at("LiteLLM", found)[0][1]


async def test_a_python_without_litellm_and_a_program_that_is_none(environment: Path, tmp_path: Path) -> None:
    python = install(environment)
    assert at("LiteLLM", await examine_litellm(around(tmp_path, python=python))) == [
        ("problem", f"{python} has no litellm")
    ]
    for program, said in ((Path("/bin/true"), "no Python"), (tmp_path / "none", "cannot be run")):
        ((state, detail),) = at("LiteLLM", await examine_litellm(around(tmp_path, python=program)))
        assert state == "problem"
        assert said in detail


async def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"no answer within 0\.2 s"):
        await output_of(Path(sys.executable), "-c", "import time; time.sleep(60)", seconds=0.2)


async def test_our_own_environment_is_asked_as_any_other() -> None:
    exporter = version("opentelemetry-exporter-otlp-proto-http")
    assert await ask_python(Path(sys.executable)) == Installed(litellm=None, langfuse=None, exporter=exporter)


# Where it is found


async def test_the_unit_names_python_and_configuration(environment: Path) -> None:
    install(environment, OF_1_74, litellm="1.74.15", langfuse="3.15.0")
    write(environment, "etc/litellm.yaml", LANGFUSE_CONFIG)
    write(
        environment,
        UNIT,
        "[Service]\nExecStart=-/opt/litellm/bin/litellm --port 4000 \\\n  --config /etc/litellm.yaml\n",
    )
    unit = read_core_unit(Layout(environment))
    assert unit == CoreUnit(environment / "opt/litellm/bin/python", environment / "etc/litellm.yaml")
    found = await examine_litellm(around(environment))
    assert [state for state, _ in at("Langfuse", found)] == ["problem"]


def test_a_drop_in_wins_and_a_script_names_its_python(tmp_path: Path) -> None:
    write(tmp_path, UNIT, "[Service]\nExecStart=/opt/old/bin/litellm\n")
    write(
        tmp_path, f"{UNIT}.d/50-own.conf", "[Service]\nExecStart=\nExecStart=/usr/local/bin/litellm --config x.yaml\n"
    )
    write(tmp_path, "usr/local/bin/litellm", "#!/opt/new/bin/python3.11\nimport litellm\n")
    assert read_core_unit(Layout(tmp_path)) == CoreUnit(tmp_path / "opt/new/bin/python3.11", None)
    write(tmp_path, f"{UNIT}.d/60-own.conf", "[Service]\nExecStart=\n")
    assert read_core_unit(Layout(tmp_path)) == CoreUnit()


def test_a_unit_with_nothing_to_read_tells_nothing(tmp_path: Path) -> None:
    assert read_core_unit(Layout(tmp_path)) == CoreUnit()
    for line in ("ExecStart=litellm --config /x", "ExecStart='/unclosed", "Description=none"):
        write(tmp_path, UNIT, f"[Service]\n{line}\n")
        assert read_core_unit(Layout(tmp_path)) == CoreUnit()


async def test_a_python_that_others_may_change_is_not_run(environment: Path) -> None:
    python = install(environment, OF_1_108, litellm=LITELLM_VERSION)
    write(environment, UNIT, "[Service]\nExecStart=/opt/litellm/bin/litellm\n")
    assert is_safe_to_run(python)
    python.parent.chmod(0o777)
    try:
        found = await examine_litellm(around(environment))
        assert [state for state, _ in at("LiteLLM", found)] == ["note"]
        assert "is not run" in at("LiteLLM", found)[0][1]
        named = await examine_litellm(around(environment, python=python))
        assert [state for state, _ in at("LiteLLM", named)] == ["ok"]
    finally:
        python.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "callbacks"),
    [
        ("litellm_settings:\n  success_callback: [a, 'b']\n  failure_callback: c\n", {"a", "b", "c"}),
        ("litellm_settings:\n  callbacks:\n", set()),
        ("model_list: []\n", set()),
    ],
)
def test_callbacks_are_a_list_or_a_name(text: str, callbacks: set[str]) -> None:
    assert callbacks_of(text) == callbacks


async def test_a_configuration_that_cannot_be_read_is_a_problem_without_its_values(tmp_path: Path) -> None:
    config = write(tmp_path, "config.yaml", "api_key: 's3cret\n\tx")
    ((state, detail),) = at("LiteLLM", await examine_litellm(around(tmp_path, config=config)))
    assert state == "problem"
    assert "s3cret" not in detail


# The running proxy


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (READINESS_PATHS[0], "LangfusePromptManagement"),
        (READINESS_PATHS[1], "langfuse"),
        (READINESS_PATHS[1], "LangfuseOtelLogger"),
    ],
)
async def test_the_proxy_tells_its_version_and_its_callbacks(tmp_path: Path, path: str, told: str) -> None:
    answer = {"litellm_version": "1.74.15", "success_callbacks": ["ServiceLogging", told], "db": "connected"}
    async with proxy(answer, path) as base:
        found = await examine_litellm(around(tmp_path, base=base))
    assert [state for state, _ in at("LiteLLM", found)] == ["note"]
    assert at("LiteLLM", found)[0][1].startswith("1.74.15 says the upstream; ")
    assert "what LiteLLM's environment holds is not known" in at("Langfuse", found)[0][1]


async def test_a_proxy_of_another_version_than_the_installed_one_is_told(environment: Path, tmp_path: Path) -> None:
    python = install(environment, OF_1_108, litellm=LITELLM_VERSION)
    async with proxy({"litellm_version": LITELLM_VERSION}) as base:
        assert [state for state, _ in at("LiteLLM", await examine_litellm(around(tmp_path, base=base)))] == ["ok"]
        same = await examine_litellm(around(tmp_path, base=base, python=python))
        assert [state for state, _ in at("LiteLLM", same)] == ["ok"]
    async with proxy({"litellm_version": "1.74.15"}) as base:
        other = await examine_litellm(around(tmp_path, base=base, python=python))
    assert [state for state, _ in at("LiteLLM", other)] == ["ok", "note"]


async def test_a_server_that_is_no_litellm_tells_nothing(tmp_path: Path) -> None:
    for answer in (["x"], {"litellm_version": 3}, {"status": "ok"}):
        async with proxy(answer) as base:
            assert await examine_litellm(around(tmp_path, base=base)) == []
    assert await examine_litellm(around(tmp_path, base="http://127.0.0.1:1")) == []
