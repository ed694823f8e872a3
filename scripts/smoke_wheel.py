"""Starts the installed ``hx-gateway`` with everything embedded, asks it the four questions of the README, stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_SECONDS = 60
STOP_SECONDS = 30


def main(work: Path) -> None:
    """Run the smoke test in ``work``; leave with a message when something is not as it should be."""
    import hx_gateway

    if "site-packages" not in str(hx_gateway.__file__):
        sys.exit(f"hx_gateway comes from {hx_gateway.__file__}, not from the wheel")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = work / "data"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HX_", "WRAPPER_", "PG_"))}
    environ |= {"HX_DATA_DIR": str(data), "WRAPPER_PORT": str(port)}
    command = [str(Path(sys.executable).parent / "hx-gateway"), "serve"]
    with (work / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environ, cwd=work, stdout=log, stderr=log)
    try:
        _ask(f"http://127.0.0.1:{port}", data)
    except BaseException:
        sys.stderr.write((work / "server.log").read_text())
        raise
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(STOP_SECONDS)
    if status != 0:
        sys.exit(f"the server ended with status {status}")
    print("The wheel serves: health, models, embeddings and chat answered.")


def _ask(url: str, data: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if _get(f"{url}/readyz", None)["status"] == "ready":
                break
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    key = (data / "admin.key").read_text().strip()
    names = {model["id"] for model in _get(f"{url}/v1/models", key)["data"]}
    _expect({"hx-chat", "emb-premium"} <= names, f"models {names}")
    vector = _get(f"{url}/v1/embeddings", key, {"model": "emb-premium", "input": "hello"})["data"][0]["embedding"]
    _expect(len(vector) == 384, f"embedding of length {len(vector)}")
    question = {"role": "user", "content": "Return exactly the text: HX-OK"}
    answer = _get(f"{url}/v1/chat/completions", key, {"model": "hx-chat", "messages": [question]})
    _expect(answer["choices"][0]["message"]["content"] == "HX-OK", f"chat answered {answer}")
    deps = _get(f"{url}/healthz/deps", None)
    _expect(deps == {"postgres": True, "redis": True, "qdrant": True}, f"dependencies {deps}")


def _get(url: str, key: str | None, body: object = None) -> Any:
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"unexpected: {what}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
