"""The line for Redis's access control list: enough for the gateway, and for nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from hx_gateway.services.redis_acl import COMMANDS, AclProblem, acl_line
from tests.fixtures.servers import SERVERS, RedisServer, Servers, _redis_binary

SOURCE = Path(__file__).resolve().parents[3] / "src" / "hx_gateway"
PASSWORD = "made up/1#2 'ü'"
# What the library's client sends by itself or through the methods that are called on it; a test below tells of others.
SENT = {"hello", "select", "multi", "exec", "discard", "mget", "set", "del", "publish"}


@pytest.fixture
def user(servers: Servers) -> Iterator[Any]:
    """Log in as the user of the line."""
    admin: Any = redis.Redis.from_url(servers.redis.url)
    admin.execute_command("ACL", "SETUSER", *acl_line("gateway", PASSWORD).split()[1:])
    client = redis.Redis(
        port=servers.redis.port, username="gateway", password=PASSWORD, decode_responses=True, driver_info=None
    )
    yield client
    client.close()
    admin.execute_command("ACL", "DELUSER", "gateway")
    admin.flushall()
    admin.close()


def called_by_scripts() -> set[str]:
    texts = [path.read_text() for path in SOURCE.rglob("*.lua")]
    assert texts
    return {name.lower() for text in texts for name in re.findall(r"redis\.p?call\(\s*['\"](\w+)", text)}


def sent_by_python() -> set[str]:
    """Return the commands that stand as words in the modules that speak the protocol themselves."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        words = re.findall(r"(?:_pack\(\(|\.command\(|send_command\()\s*\"([A-Z]+)\"(?:, \"([A-Z]+)\")?", text)
        found |= {"|".join(filter(None, pair)).lower() for pair in words}
        found |= {"evalsha"} if '"EVALSHA"' in text else set()
    return found


def test_the_commands_are_those_of_the_source() -> None:
    # AUTH is open to everybody.
    assert set(COMMANDS) == (called_by_scripts() | sent_by_python() | SENT) - {"auth"}


def test_no_other_method_of_the_librarys_client_is_called() -> None:
    called = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if "RedisService" in text:
            called |= set(re.findall(r"service\.client\.(\w+)\(", text)) | set(re.findall(r"\bpipe\.(\w+)\(", text))
    assert called == {"mget", "pipeline", "publish", "set", "delete", "execute"}


def test_the_user_works_on_the_gateways_own_keys_and_channel(user: Any) -> None:
    assert user.set("hx:{default}:a", "1")
    assert user.mget(["hx:{default}:a"]) == ["1"]
    assert user.publish("hx:access", "text") == 0


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "other"),
        ("SET", "other", "1"),
        ("MGET", "hx:a", "other"),
        ("PUBLISH", "other", "text"),
        ("SUBSCRIBE", "other"),
        ("KEYS", "hx:*"),
        ("SCAN", "0"),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("ACL", "WHOAMI"),
        ("CLIENT", "KILL", "ID", "1"),
        ("SCRIPT", "FLUSH"),
        ("EVAL", "return 1", "0"),
    ],
)
def test_everything_else_is_refused(user: Any, command: tuple[str, ...]) -> None:
    with pytest.raises(NoPermissionError):
        user.execute_command(*command)


def test_a_script_reaches_no_key_of_others(user: Any) -> None:
    sha = user.script_load("return redis.call('GET', 'other')")
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM|can't access"):
        user.evalsha(sha, 0)


def test_a_wrong_password_is_refused(servers: Servers, user: Any) -> None:
    assert user.ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=servers.redis.port, username="gateway", password="another").ping()


@pytest.mark.parametrize("which", SERVERS)
@pytest.mark.parametrize("litellm", [False, True])
def test_a_server_starts_with_the_line_in_its_file(which: str, litellm: bool, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text(f"{acl_line('gateway', PASSWORD, litellm=litellm)}\n")
    server = RedisServer(
        _redis_binary("valkey" if which == SERVERS[0] else "redis6"),
        tmp_path,
        ["--aclfile", str(tmp_path / "users.acl")],
    )
    try:
        server.start()
        client: Any = redis.Redis(port=server.port, username="gateway", password=PASSWORD, driver_info=None)
        assert client.set("hx:a", "1")
        for refused in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("SHUTDOWN",)):
            with pytest.raises(NoPermissionError):
                client.execute_command(*refused)
        client.close()
    finally:
        server.close()


def test_the_line_holds_the_hash_alone() -> None:
    line = acl_line("gateway", PASSWORD)
    assert PASSWORD not in line
    assert f"#{hashlib.sha256(PASSWORD.encode()).hexdigest()}" in line.split()


@pytest.mark.parametrize("name", ["default", "", "a b", "ü"])
def test_a_name_that_cannot_stand_there_is_refused(name: str) -> None:
    with pytest.raises(AclProblem):
        acl_line(name, PASSWORD)
