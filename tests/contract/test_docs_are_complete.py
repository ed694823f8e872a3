"""The documentation names everything there is, and nothing it must not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hx_gateway.cli.main import app as command_line
from hx_gateway.settings import Settings, variables_of
from hx_gateway.telemetry import Metrics

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")),
]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
CODE = re.compile(r"""(?:\bcode(?::\ str)?\ ?=\ ?|JSONObjectError\(|BadHead\(|_refuse\()["']([a-z_0-9]+)["']""")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_the_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs_reference.py", "--check"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_setting_is_documented() -> None:
    text = page("reference/settings.md")
    for name in Settings.model_fields:
        for variable in variables_of(name):
            assert f"`{variable}`" in text


def test_every_error_code_is_documented() -> None:
    codes = {code for path in SOURCES for code in CODE.findall(path.read_text())}
    assert len(codes) > 40
    text = page("reference/errors.md")
    assert sorted(code for code in codes if f"`{code}`" not in text) == []


def test_every_metric_is_documented() -> None:
    text = page("reference/metrics.md")
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in text


def test_every_command_is_documented() -> None:
    text = page("reference/commands.md")
    for command in command_line.registered_commands:
        assert command.callback is not None
        assert f"`hx-gateway {command.callback.__name__}`" in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_nothing_local_is_named(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for unwanted in ("/work/", "/root/", "pypi.org", "files.pythonhosted", "registry.npmjs", "deb.debian.org"):
        assert unwanted not in text


def test_the_example_of_an_environment_file_holds_no_value_that_is_in_force() -> None:
    lines = (ROOT / "config" / "gateway-wrapper.env").read_text().splitlines()
    assert all(not line or line.startswith("#") for line in lines)


def test_the_lock_files_hold_hashes_and_no_address() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-litellm.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert "--index" not in text
        packages = re.findall(r"^([a-z0-9][\w.-]*)==", text, re.MULTILINE)
        assert len(packages) > 30
        assert text.count("--hash=sha256:") > len(packages)
