"""The embedded stores: data stays, whoever dies; two at once share; nobody else gets in."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from hx_gateway.services.embedded.account import Account
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.services.embedded.valkey import EmbeddedValkey
from tests.fixtures.gateway import Gateway

OWNER = """
import sys, time
from pathlib import Path
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), notify=lambda line: None)
server.start()
print(server.role, flush=True)
while True:
    time.sleep(0.2)
    server.check()
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """Return a folder that any account may pass through."""
    with tempfile.TemporaryDirectory(prefix="hxemb-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def silent(_line: str) -> None: ...


def query(server: EmbeddedPostgres, sql: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(server.url, timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def child_pid(server: EmbeddedPostgres) -> int:
    assert server._child is not None
    return server._child.pid


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@pytest.mark.parametrize("folder", ["plain", "with a space", "/".join(["long" * 10] * 4)])
def test_data_survives_a_stop_and_a_start(base: Path, folder: str) -> None:
    server = EmbeddedPostgres(base / folder / "postgres", notify=silent)
    server.start()
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    assert not server.is_ready()
    server.start()
    assert query(server, "SELECT answer FROM kept") == 42
    server.stop()


def test_a_server_that_is_killed_is_started_again_with_its_data(base: Path) -> None:
    server = EmbeddedPostgres(base / "postgres", notify=silent)
    server.start()
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(child_pid(server), signal.SIGKILL)
    wait_for(lambda: server._child is not None and server._child.poll() is not None)
    server.check()
    wait_for(server.is_ready)
    assert query(server, "SELECT answer FROM kept") == 42
    server.stop()


def test_our_role_may_nothing_special_and_a_password_is_needed(base: Path) -> None:
    server = EmbeddedPostgres(base / "postgres", notify=silent)
    server.start()
    try:
        assert (
            query(server, "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
            is False
        )
        assert query(server, "SELECT current_setting('listen_addresses')") == ""
        password = server.url.split(":")[2].split("@")[0]
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(asyncpg.connect(server.url.replace(password, "wrong"), timeout=5))
        assert stat.S_IMODE((server.base / "credentials.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((server.base / "cluster").stat().st_mode) == 0o700
        assert stat.S_IMODE((server.base / "run").stat().st_mode) == 0o700
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not any(password.encode() in command for command in commands)
    finally:
        server.stop()


def test_there_are_vectors_in_our_database_and_in_one_of_before(base: Path) -> None:
    server = EmbeddedPostgres(base / "postgres", notify=silent)
    server.start()
    assert query(server, "SELECT '[3,4]'::vector <-> '[0,0]'::vector") == 5
    superuser = server._read_passwords()["superuser_password"]
    url = server.url.replace("hx_gateway:", "hx_owner:").replace(server._read_passwords()["password"], superuser)
    asyncio.run(execute(url, "DROP EXTENSION vector"))
    server.stop()
    # As a gateway left it that knew nothing of vectors.
    (server.base / "vector.made").unlink()
    server.start()
    assert query(server, "SELECT '[3,4]'::vector <-> '[0,0]'::vector") == 5
    server.stop()


def test_where_there_are_no_vectors_the_server_starts_and_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.services.embedded.postgres.EXTENSION", "no_such_extension")
    told: list[str] = []
    server = EmbeddedPostgres(base / "postgres", notify=told.append)
    server.start()
    assert query(server, "SELECT 42") == 42
    server.stop()
    assert "no_such_extension" in told[-1]
    assert not (server.base / "no_such_extension.made").exists()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def start_owner(base: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", OWNER, str(base)], stdout=subprocess.PIPE)


def end(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()
    owner.communicate()


def test_two_that_start_at_once_share_and_one_takes_over(base: Path) -> None:
    folder = base / "postgres"
    owners = [start_owner(folder) for _ in range(2)]
    roles = []
    for owner in owners:
        assert owner.stdout is not None
        roles.append(owner.stdout.readline().strip())
    assert sorted(roles) == [b"attached", b"owner"]
    watcher = EmbeddedPostgres(folder, notify=silent)
    assert watcher.is_ready()
    query(watcher, "CREATE TABLE kept AS SELECT 42 AS answer")
    first = owners[roles.index(b"owner")]
    end(first)
    wait_for(lambda: not watcher.is_ready())
    wait_for(watcher.is_ready)
    assert query(watcher, "SELECT answer FROM kept") == 42
    end(owners[roles.index(b"attached")])
    wait_for(lambda: not watcher.is_ready())


def test_a_pid_file_that_names_somebody_elses_process_is_no_obstacle(base: Path) -> None:
    server = EmbeddedPostgres(base / "postgres", notify=silent)
    server.start()
    server.stop()
    as_server: dict[str, int] = {"user": server._account.uid} if os.geteuid() == 0 else {}
    stranger = subprocess.Popen(["sleep", "60"], **as_server)  # type: ignore[call-overload]
    try:
        cluster = server.base / "cluster"
        (cluster / "postmaster.pid").write_text(f"{stranger.pid}\n{cluster}\n1\n5432\n\n\n\nready\n")
        server.start()
        assert query(server, "SELECT 1") == 1
    finally:
        stranger.kill()
        stranger.wait()
        server.stop()


def test_an_interrupted_first_start_leaves_nothing_in_the_way(base: Path) -> None:
    folder = base / "postgres"
    owner = start_owner(folder)
    wait_for((folder / "cluster.init").exists)
    end(owner)
    assert not (folder / "cluster").exists()
    server = EmbeddedPostgres(folder, notify=silent)
    server.start()
    assert query(server, "SELECT 1") == 1
    server.stop()


def test_a_restart_keeps_nobody_waiting(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(base / "postgres", notify=silent)
    server.start()
    try:
        os.kill(child_pid(server), signal.SIGKILL)
        wait_for(lambda: server._child is not None and server._child.poll() is not None)
        monkeypatch.setattr(EmbeddedPostgres, "is_ready", lambda _server: False)  # a recovery that takes for ever
        began = time.monotonic()
        server.check()
        server.check()
        assert time.monotonic() - began < 10
        assert server._child is not None
    finally:
        server.stop()


def test_a_server_that_always_ends_is_started_less_and_less_often(base: Path) -> None:
    said: list[str] = []
    server = EmbeddedValkey(base / "valkey", notify=said.append)
    server.start()
    try:
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            if server._child is not None and server._child.poll() is None:
                server._child.kill()
                server._child.wait()
            server.check()
        assert said == ["The embedded Valkey ended and is started again."]
    finally:
        server.stop()


def test_lost_passwords_are_made_anew_and_the_data_stays(base: Path) -> None:
    said: list[str] = []
    server = EmbeddedPostgres(base / "postgres", notify=said.append)
    server.start()
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = server.url
    server.stop()
    (server.base / "credentials.json").write_text("")
    server.start()
    try:
        assert server.url != before
        assert query(server, "SELECT answer FROM kept") == 42
        assert query(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert "lost" in said[-1]
    finally:
        server.stop()


def test_a_server_without_owner_ends_before_the_next_one_starts(base: Path) -> None:
    folder = base / "postgres"
    owner = start_owner(folder)
    assert owner.stdout is not None
    assert owner.stdout.readline().strip() == b"owner"
    watcher = EmbeddedPostgres(folder, notify=silent)
    query(watcher, "CREATE TABLE kept AS SELECT 42 AS answer")
    end(owner)
    watcher.start()
    try:
        assert watcher.role == "owner"
        assert query(watcher, "SELECT answer FROM kept") == 42
    finally:
        watcher.stop()


@pytest.fixture
def root_state(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what root makes for other accounts inside the test's folder."""
    state = base / "root-state"
    monkeypatch.setattr("hx_gateway.services.embedded.postgres.ROOT_STATE", state)
    return state


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
@pytest.mark.usefixtures("strict_umask")
@pytest.mark.parametrize("through_a_link", [False, True])
def test_as_root_a_closed_data_directory_is_left_as_it_is(base: Path, root_state: Path, through_a_link: bool) -> None:
    closed = base / "closed"
    (closed / "data").mkdir(parents=True)
    (base / "link").symlink_to(closed / "data")
    directory = (base / "link" if through_a_link else closed / "data") / "postgres"
    server = EmbeddedPostgres(directory, notify=silent)
    server.start()
    try:
        assert query(server, "SELECT 1") == 1
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert server.base.is_relative_to(root_state)
        assert stat.S_IMODE(root_state.stat().st_mode) & 0o066 == 0
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
@pytest.mark.usefixtures("strict_umask")
def test_as_root_a_strict_umask_is_no_obstacle(base: Path) -> None:
    server = EmbeddedPostgres(base / "new" / "postgres", notify=silent)
    server.start()
    try:
        assert query(server, "SELECT 1") == 1
        assert server.base == base / "new" / "postgres"
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
def test_as_root_folders_that_exist_keep_their_mode_and_the_remedy_is_told(base: Path, root_state: Path) -> None:
    closed = base / "closed"
    for folder in (closed, root_state):
        folder.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match=r"chmod o\+x"):
        EmbeddedPostgres(closed / "postgres", notify=silent)
    assert stat.S_IMODE(root_state.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
def test_as_root_a_state_folder_that_others_may_write_is_not_trusted(base: Path, root_state: Path) -> None:
    (base / "closed").mkdir(mode=0o700)
    root_state.mkdir()
    root_state.chmod(0o777)
    with pytest.raises(EmbeddedError, match="only root can write"):
        EmbeddedPostgres(base / "closed" / "postgres", notify=silent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
def test_as_root_programs_that_the_account_cannot_reach_are_copied(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.services.embedded.postgres.ROOT_STATE", base / "state" / "embedded")
    monkeypatch.setattr(Account, "can_reach", lambda _account, path: base in path.parents)
    server = EmbeddedPostgres(base / "postgres", notify=silent)
    server.start()
    try:
        assert query(server, "SELECT 1") == 1
        assert server.command()[0].startswith(str(base / "state"))
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user_starts_it_too(base: Path) -> None:
    home = base / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    script = OWNER.replace("while True:", "server.stop(); sys.exit(0)\nwhile True:")
    environ = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"], "HOME": str(home)}
    done = run_as_nobody(["-c", script, str(home / "postgres")], environ)
    assert done.stdout.strip() == b"owner", done.stderr.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_user_without_an_entry_in_the_password_file_is_told_so(base: Path) -> None:
    environ = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}
    done = run_as_nobody(["-c", OWNER, str(base / "postgres")], environ, uid=54321)
    assert b"user id 54321 has no entry in the password file" in done.stderr


def run_as_nobody(
    arguments: list[str], environ: dict[str, str], uid: int = 65534
) -> subprocess.CompletedProcess[bytes]:
    """Run Python as another account: this one, or the system's where this one is in a closed folder."""
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        try:
            return subprocess.run(
                [python, *arguments],
                user=uid,
                group=65534,
                extra_groups=[],
                capture_output=True,
                check=False,
                cwd="/",
                env=environ,
            )
        except (PermissionError, FileNotFoundError):
            continue
    pytest.skip("another account cannot reach any Python")


def test_valkey_answers_and_is_started_again(base: Path) -> None:
    server = EmbeddedValkey(base / "valkey", notify=silent)
    server.start()
    assert server.is_ready()
    assert server._child is not None
    server._child.kill()
    server._child.wait()
    server.check()
    wait_for(server.is_ready)
    server.stop()
    assert not server.is_ready()


def test_the_gateway_survives_kill_nine_with_its_data(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(stores=True)
    Path(gateway.data_dir).chmod(0o755)
    assert gateway.get("/healthz/deps").json() == {"postgres": True, "redis": True, "qdrant": True}
    gateway.kill()
    gateway.start()
    gateway.wait_until(lambda: gateway.get("/health/db").status == 200)
    assert gateway.stop() == 0


def test_several_workers_share_a_valkey_and_report_together(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway({"HX_WORKERS": "2"}, stores=True)
    for _ in range(20):
        assert gateway.get("/v1/models", key=gateway.key).status == 200
    counted = [line for line in gateway.get("/metrics").body.decode().splitlines() if 'route="models"' in line]
    total = next(line for line in counted if line.startswith("hx_requests_total"))
    assert float(total.rpartition(" ")[2]) == 20.0
    assert gateway.stop() == 0


def test_a_taken_port_is_told_with_the_remedy(start_gateway: Callable[..., Gateway]) -> None:
    first = start_gateway()
    second = start_gateway({"WRAPPER_PORT": str(first.port)}, wait=False)
    assert second.process is not None
    assert second.process.wait(30) == 1
    assert "the port is taken" in second.log()
    assert "WRAPPER_PORT" in second.log()
