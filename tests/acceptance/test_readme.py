"""What the README says to type works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.fixtures.gateway import Gateway

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def prepared(text: str, gateway: Gateway, folder: Path) -> str:
    (folder / ".data").mkdir()
    (folder / ".data" / "admin.key").write_text(gateway.key + "\n")
    return text.replace("http://127.0.0.1:4010", gateway.url)


def test_the_four_curl_calls(gateway: Gateway, tmp_path: Path) -> None:
    script = prepared(example("curl"), gateway, tmp_path)
    done = subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    decoder = json.JSONDecoder()
    text, answers = done.stdout.decode(), []
    while text.strip():
        answer, end = decoder.raw_decode(text.strip())
        answers.append(answer)
        text = text.strip()[end:]
    health, models, embedding, chat = answers
    assert health == {"status": "ok"}
    assert {model["id"] for model in models["data"]} == {"hx-chat", "emb-premium"}
    assert len(embedding["data"][0]["embedding"]) == 384
    assert chat["choices"][0]["message"]["content"] == "HX-OK"


def test_the_python_example(gateway: Gateway, tmp_path: Path) -> None:
    script = prepared(example("python"), gateway, tmp_path)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == "HX-OK\nHX-OK"


def test_the_smoke_command_finds_the_key_that_the_gateway_keeps(gateway: Gateway, tmp_path: Path) -> None:
    script = (
        prepared(example("smoke"), gateway, tmp_path)
        .replace(".venv/bin/hx-gateway", f"{sys.executable} -m hx_gateway")
        .strip()
    )
    kept = {name: value for name, value in gateway.environ.items() if not name.startswith("HX_")}
    done = subprocess.run(
        ["sh", "-c", f"{script} --url {gateway.url} --no-database"],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    assert b"0 failed" in done.stdout


def command(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**gateway.environ, "HX_ADMIN_KEY": gateway.key}
    return subprocess.run(
        [sys.executable, "-m", "hx_gateway", *arguments], env=environ, capture_output=True, check=False
    )


def test_doctor_hides_secrets_and_names_problems_with_their_remedy(gateway: Gateway) -> None:
    healthy = command(gateway, "doctor", "--json")
    assert healthy.returncode == 0, healthy.stdout.decode()
    told = json.loads(healthy.stdout)
    assert list(told) == ["version", "settings", "findings"]
    assert {tuple(finding) for finding in told["findings"]} == {("subject", "state", "detail", "remedy")}
    assert {"disk", "clock", "permissions", "response cache"} < {finding["subject"] for finding in told["findings"]}
    settings = {entry["variable"]: entry for entry in told["settings"]}
    assert settings["HX_ADMIN_KEY"]["value"] == "(hidden)"
    assert settings["WRAPPER_PORT"]["source"] == "environment (WRAPPER_PORT)"
    gateway.environ["PG_URL"] = "postgresql://u:s3cret-word@127.0.0.1:1/db"
    try:
        sick = command(gateway, "doctor")
    finally:
        gateway.environ["PG_URL"] = "none"
    assert sick.returncode == 1
    assert b"s3cret-word" not in sick.stdout
    assert "→ See whether it runs".encode() in sick.stdout
    assert gateway.key.encode() not in sick.stdout
