"""What an attacker brings along, and where whoever looks for a leak has to look."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import quote

import asyncpg
import httptools
import redis

from tests.fixtures.gateway import Answer, Gateway, _Reader

ISSUED = re.compile(rb"sk-hx-[0-9A-Za-z]{12}-[0-9A-Za-z]{38}")
# Where the program itself keeps what must stay secret.
OWN_SECRETS = frozenset({"admin.key", "peppers.json"})


class Line:
    """A connection that is kept from one request to the next."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1:{port}\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Make one request and read its answer."""
        fields = {"content-length": str(len(body)), "content-type": "application/json"} if body else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **fields}.items())
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{self._head}{lines}\r\n".encode("latin-1") + body)
        reader = _Reader()
        parser = httptools.HttpResponseParser(reader)
        while not reader.complete:
            received = self._socket.recv(65536)
            assert received, "the connection ended before the answer did"
            parser.feed_data(received)
        return Answer(parser.get_status_code(), reader.headers, bytes(reader.body), complete=True)


def look_ups(gateway: Gateway) -> dict[str, float]:
    """Return how many keys were presented, by how they were known."""
    found = re.findall(r'^hx_key_checks_total\{outcome="(\w+)"\} ([0-9.e+]+)$', metrics(gateway), re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


def metrics(gateway: Gateway) -> str:
    """Return the metrics, asked from this machine."""
    return gateway.get("/metrics").body.decode()


def events_since(gateway: Gateway, start: int) -> list[dict[str, Any]]:
    """Return the log's lines after its first ``start`` characters. Each must be one JSON object."""
    return [json.loads(line) for line in gateway.log()[start:].split("\n") if line]


# Where a leak would be


def database_text(url: str) -> str:
    """Return every row of every table that is not PostgreSQL's own, as text."""

    async def read() -> str:
        connection = await asyncpg.connect(url)
        try:
            tables = await connection.fetch(
                "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class AS c "
                "JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') "
                "AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
            )
            rows = [await connection.fetch(f"SELECT t::text FROM {table['name']} AS t") for table in tables]
        finally:
            await connection.close()
        return "\n".join(row[0] for table in rows for row in table)

    return asyncio.run(read())


def redis_text(url: str) -> str:
    """Return every name and value that Redis holds. Values are read, not dumped: a dump is compressed."""
    client = redis.Redis.from_url(url, decode_responses=True)
    readers: dict[str, Callable[[str], object]] = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda name: client.lrange(name, 0, -1),
        "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        "stream": client.xrange,
        "none": lambda name: None,
    }
    with client:
        return "\n".join(f"{name} {readers[str(client.type(name))](name)}" for name in client.scan_iter())


def files_below(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file with what is in it, but for those that are secrets themselves."""
    for path in sorted(directory.rglob("*")):
        try:
            if path.is_file() and path.name not in OWN_SECRETS:
                # Room that is kept for later is zeros.
                yield path, path.read_bytes().strip(b"\0")
        except FileNotFoundError:
            continue


def found_in(text: str | bytes, secrets: Iterable[str]) -> list[str]:
    """Return which secrets are in a text: as they are, in hexadecimal digits, in base 64 or percent-encoded."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    lower = data.lower()
    found = []
    for secret in secrets:
        raw = secret.encode()
        forms = (raw, base64.b64encode(raw).rstrip(b"="), quote(secret, safe="").encode(), raw[::-1])
        if any(form in data for form in forms) or raw.hex().encode() in lower:
            found.append(secret)
    return found


# A model's server that says everything it hears


class Parrot:
    """Answers with what it was sent, headers too: ``parrot-<status>`` with that status, ``parrot-cut`` with half.

    Any other path than a model's is somebody's webhook, which fails.
    """

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _ParrotHandler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.hooks: list[str] = []
        self._server.parrot = self  # type: ignore[attr-defined]
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _ParrotHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        heard = f"{self.path} {self.headers.as_string()} {body}"
        if not self.path.startswith("/v1/"):
            self.server.parrot.hooks.append(heard)  # type: ignore[attr-defined]
            self._answer(500, {"heard": heard})
            return
        kind = str(json.loads(body)["model"]).removeprefix("parrot-")
        error = {"message": f"bad: {heard}", "type": "invalid_request_error", "param": None, "code": heard[:40]}
        message = {"index": 0, "message": {"role": "assistant", "content": heard}, "finish_reason": "stop"}
        answer = {"id": "chatcmpl-parrot", "object": "chat.completion", "choices": [message]}
        if kind == "cut":
            self._answer(200, answer, cut=True)
        elif kind == "garbage":
            self.wfile.write(heard.encode())
            self.close_connection = True
        else:
            self._answer(int(kind), answer if kind == "200" else {"error": error})

    def _answer(self, status: int, value: object, *, cut: bool = False) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("set-cookie", f"heard={self.headers.get('authorization', '')}")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        """Say nothing."""


# Paths that somebody may read as another one


def variants_of(path: str) -> list[str]:
    """Return targets that a lenient server would take for ``path``, or that hide it from a check of prefixes."""
    parts = path.strip("/").split("/")
    targets = {path.upper(), path.title(), path.swapcase(), path[1:], f"/{path}", f"//{path}", f"/./{path[1:]}"}
    targets |= {path + end for end in ENDINGS}
    targets |= {f"{start}{path}" for start in STARTS}
    for number, part in enumerate(parts):
        for changed in _changed(part):
            targets.add("/" + "/".join([*parts[:number], changed, *parts[number + 1 :]]))
    targets |= {path + quote(char) + end for char in UNSEEN for end in ("", "/", "x")}
    for joint in JOINTS:
        targets.add(f"/{joint.join(parts)}")
        targets.add(f"/{parts[0]}{joint}" + "/".join(parts[1:]))
    return sorted(targets - {path})


ENDINGS = (
    *("/", "//", "/.", "/..", "/%2e", "%2f", "%2F", ";", ";a=b", "%3b", "%00", "%20", "%09", "%0a", "%0d%0a", "\\"),
    *("%5c", ".", "..", ".json", "~", "*", "?", "??", "?a#b", "#", "#/healthz", "%23", "%3f", "?/healthz", "/%20"),
    *("/healthz/..", "/../healthz", "/..;/healthz", ",", "&", "=", "+", "%c0%af", "%ef%bc%8f", "/%ff"),
)
# Among them what a pattern's end does not count as a character, what is stripped, and what is normalised away.
UNSEEN = ("\n", "\r", "\r\n", "\t", "\v", "\f", "\x1f", "\x7f", "\x85", "\xa0", "\u200b", "\u2028", "\u2029", "\ufeff")
STARTS = (
    *("/healthz/..", "/healthz/%2e%2e", "/healthz/..;", "/healthz;", "/healthz//..", "/v1/..", "/.", "/;", "/%2e"),
    *("/healthz%2f..", "/static/..%2f..", "/%2f", "/\\", "/%5c", "/ ", "/%20", "/*", "/openapi.json/.."),
)
JOINTS = ("//", "/./", "/;/", ";/", "%2f", "%2F", "\\", "%5c", "/x/../", "/%2e/", "/%2e%2e/", "%252f", "/%20", "/.;/")


def _changed(part: str) -> Iterator[str]:
    yield part.upper()
    yield part.capitalize()
    yield f"%{ord(part[0]):02x}{part[1:]}"
    yield f"%25{ord(part[0]):02x}{part[1:]}"
    yield "".join(f"%{ord(char):02X}" for char in part)
    yield f"{part};jsessionid=1"
    yield f"{part}."
    yield f"{part}%00"
    yield f"{part}%20"
    yield f".%2f{part}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a caller learnt of a request: the status, and the code where it was refused."""

    status: int
    code: str | None

    @property
    def is_refusal(self) -> bool:
        return self.status >= 400


def decision_of(answer: Answer) -> Decision:
    """Return what was decided, whichever words it came in."""
    try:
        body = answer.json()
    except ValueError:
        return Decision(answer.status, None)
    error = body.get("error", body) if isinstance(body, dict) else {}
    return Decision(answer.status, error.get("code") if answer.status >= 400 and isinstance(error, dict) else None)
