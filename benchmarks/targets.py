"""What is measured: the mock itself, nginx before it, the gateway before it; each started anew for a round."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NATIVE = Path(__file__).parent / "native"
OUT = Path(__file__).parent / "out"
START_SECONDS = 60
NGINX = """
worker_processes 1; daemon off; pid {base}/nginx.pid; error_log {base}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {base}/access.log; client_body_temp_path {base}/b; proxy_temp_path {base}/p; fastcgi_temp_path {base}/f;
  uwsgi_temp_path {base}/u; scgi_temp_path {base}/s;
  upstream mock {{ server 127.0.0.1:{mock}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that listens. ``pids`` are its processes, ``headers`` what a request to it needs."""

    name: str
    port: int
    pids: tuple[int, ...]
    headers: tuple[str, ...] = ()


def build_native() -> None:
    """Compile the mock and the load generator where they are not current. Leaves with the remedy without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    OUT.mkdir(exist_ok=True)
    for name in ("mock", "load"):
        source, program = NATIVE / f"{name}.c", OUT / name
        if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
            continue
        if compiler is None:
            sys.exit("The benchmark needs a C compiler. On Debian and Ubuntu: apt-get install -y gcc libc6-dev")
        subprocess.run([compiler, "-O2", "-o", str(program), str(source), "-lm"], check=True)


@contextmanager
def process(command: list[str], core: int, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` on one core; end it afterwards."""

    def pin() -> None:
        os.sched_setaffinity(0, {core})

    child = subprocess.Popen(command, preexec_fn=pin, **options)  # type: ignore[call-overload]  # noqa: PLW1509
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def mock(core: int, *, pace_ms: int = 0, events: int = 100) -> Iterator[Target]:
    """Run the mock model server."""
    with process([str(OUT / "mock"), "0", str(pace_ms), str(events)], core, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        yield Target("direct", port, ())
        child.stdout.close()


@contextmanager
def nginx(core: int, upstream: Target) -> Iterator[Target]:
    """Run nginx as a reverse proxy: one worker, kept connections, no buffering, and an access log as we have."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hxbench-") as base:
        config = Path(base) / "nginx.conf"
        config.write_text(NGINX.format(base=base, mock=upstream.port, port=port))
        with process([program, "-c", str(config), "-p", base, "-g", "user root;"], core) as child:
            wait_for(lambda: bool(connected(port)))
            yield Target("nginx", port, (child.pid,))


@contextmanager
def gateway(core: int, upstream: Target, settings: Mapping[str, str] | None = None) -> Iterator[Target]:
    """Run the gateway as it is shipped but for ``settings``: authentication, access log and metrics on, no store."""
    port, key = free_port(), secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="hxbench-") as base, (Path(base) / "server.log").open("wb") as log:
        ours = ("HX_", "WRAPPER_", "PG_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environ |= {"PG_URL": "none", "REDIS_URL": "none", "QDRANT_URL": "none", "HX_DATA_DIR": base}
        environ |= {"LITELLM_BASE_URL": f"http://127.0.0.1:{upstream.port}", "HX_ADMIN_KEY": key}
        environ |= {"WRAPPER_PORT": str(port), "HX_LOG_FORMAT": "json", "HX_DRAIN_SECONDS": "2", **(settings or {})}
        command = [sys.executable, "-m", "hx_gateway", "serve"]
        with process(command, core, env=environ, stdout=log, stderr=log) as child:
            wait_for(lambda: ready(port))
            yield Target("gateway", port, (child.pid,), (f"Authorization: Bearer {key}",))


def nginx_is_installed() -> bool:
    """Return whether nginx can be measured beside the gateway."""
    return shutil.which("nginx") is not None or Path("/usr/sbin/nginx").exists()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connected(port: int) -> bool:
    """Return whether something listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ready(port: int) -> bool:
    """Return whether the gateway says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``, at most :data:`START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("a server did not start in time")
        time.sleep(0.05)
