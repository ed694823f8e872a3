"""What the doctor says of a host: disks, open files, secrets, accounts, and the clock by itself."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from hx_gateway.doctor.account import examine_account
from hx_gateway.doctor.clock import EARLIEST, Difference, examine_clock, judge_difference
from hx_gateway.doctor.disk import (
    DATABASE,
    GIB,
    JOURNAL,
    LOW_BYTES,
    SCARCE_BYTES,
    Place,
    Space,
    examine_disk,
    judge_kind,
    judge_space,
    kind_of,
)
from hx_gateway.doctor.examination import bounded, examine
from hx_gateway.doctor.findings import Finding, Subject, Surroundings
from hx_gateway.doctor.open_files import examine_open_files, judge_open_files
from hx_gateway.doctor.permissions import examine_permissions
from hx_gateway.doctor.threads import in_thread
from hx_gateway.settings import Settings, load_settings
from hx_gateway.wiring.layout import Layout

NO_STORES = {"PG_URL": "none", "REDIS_URL": "none", "QDRANT_URL": "none"}
TIB = 1024 * GIB


def around(data_dir: Path, given: Mapping[str, str] | None = None, *env_files: Path) -> Surroundings:
    settings = Settings.model_validate({**NO_STORES, **(given or {}), "HX_DATA_DIR": str(data_dir)})
    root = next(folder for folder in (data_dir, *data_dir.parents) if folder.is_dir())
    return Surroundings(settings=settings, env_files=env_files, layout=Layout(root))


def told(findings: list[Finding]) -> dict[str, str]:
    """Return the worst state of each subject."""
    order = ["ok", "note", "problem"]
    return {
        finding.subject: max((each.state for each in findings if each.subject == finding.subject), key=order.index)
        for finding in findings
    }


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


# The examination itself


async def test_a_look_that_hangs_is_told_and_holds_up_nothing() -> None:
    end = threading.Event()

    def hangs() -> list[Finding]:
        end.wait(30)
        return []

    found = await bounded(Subject.DISK, in_thread(hangs), seconds=0.05)
    assert (only(found).state, only(found).detail) == ("problem", "no answer within 0.05 s")
    end.set()


async def test_what_a_look_raises_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_a_look_that_is_not_let_is_told() -> None:
    def closed() -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/made/up")

    found = only(await bounded(Subject.LITELLM, in_thread(closed)))
    assert found.state == "problem"
    assert "/made/up" in found.detail


async def test_every_problem_has_a_remedy_and_a_warning_of_the_settings_is_one(tmp_path: Path) -> None:
    loaded = load_settings({**NO_STORES, "HX_DATA_DIR": str(tmp_path / "none"), "HX_WORKRES": "2"})
    found = await examine(loaded)
    assert only([finding for finding in found if finding.subject is Subject.SETTINGS]).state == "problem"
    assert all(finding.remedy for finding in found if finding.state == "problem")


# Disk


@pytest.mark.parametrize(
    ("space", "state"),
    [
        (Space(100 * GIB, TIB, 90, 100), "problem"),  # the journal's own bound, below
        (Space(SCARCE_BYTES, 20 * GIB, 90, 100), "ok"),
        (Space(SCARCE_BYTES - 1, 20 * GIB, 90, 100), "note"),
        (Space(LOW_BYTES - 1, 4 * GIB, 90, 100), "problem"),
        (Space(99 * GIB, TIB, 90, 100), "note"),
        (Space(20 * GIB, TIB, 90, 100), "problem"),
        (Space(SCARCE_BYTES, 20 * GIB, 4, 100), "note"),
        (Space(SCARCE_BYTES, 20 * GIB, 0, 100), "problem"),
        (Space(SCARCE_BYTES, 20 * GIB, 0, 0), "ok"),
    ],
)
def test_free_space_and_inodes_are_judged_by_amount_and_share(space: Space, state: str) -> None:
    journal_free = 101 * GIB if space.free_bytes == 100 * GIB else 0
    assert only(judge_space(Place(Path("/x"), (JOURNAL,)), space, journal_free)).state == state


def test_a_disk_that_the_journal_must_leave_alone_is_a_problem_of_the_journal_only() -> None:
    space = Space(6 * GIB, 20 * GIB, 90, 100)
    refused = only(judge_space(Place(Path("/x"), (JOURNAL,)), space, 7 * GIB))
    assert "events are refused" in refused.detail
    assert "HX_JOURNAL_MIN_FREE_BYTES" in refused.remedy
    assert only(judge_space(Place(Path("/x"), ("data directory",)), space, 7 * GIB)).state == "ok"


@pytest.mark.parametrize(
    ("kind", "uses", "durability", "state"),
    [
        ("ext4", (JOURNAL, DATABASE), "always", None),
        ("tmpfs", ("data directory",), "process", "note"),
        ("tmpfs", (JOURNAL,), "process", "problem"),
        ("tmpfs", (JOURNAL,), "memory", "note"),
        ("nfs4", (DATABASE,), "memory", "problem"),
        ("cifs", ("data directory",), "process", "note"),
    ],
)
def test_file_systems_that_keep_nothing_are_named(
    kind: str, uses: tuple[str, ...], durability: str, state: str | None
) -> None:
    found = judge_kind(Place(Path("/x"), uses), kind, durability)
    assert [finding.state for finding in found] == ([] if state is None else [state])
    assert all(kind in finding.detail for finding in found)


def test_the_type_is_that_of_the_nearest_mount_and_of_the_last_one_there(tmp_path: Path) -> None:
    inside = tmp_path / "a b"
    inside.mkdir()
    escaped = str(inside).replace(" ", r"\040")
    mounts = "\n".join(
        [
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
            f"23 22 0:40 / {escaped} rw - nfs4 files.example.org:/x rw",
            f"24 23 0:41 / {escaped} rw - tmpfs tmpfs rw",
        ]
    )
    assert kind_of(inside / "deep", mounts) == "tmpfs"
    assert kind_of(tmp_path, mounts) == "ext4"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no file system in memory here")
def test_a_journal_on_a_real_file_system_in_memory_is_a_problem(tmp_path: Path) -> None:
    given = {"PG_URL": "postgresql://hx@127.0.0.1:1/hx", "HX_JOURNAL_DIR": "/dev/shm"}
    found = [finding for finding in examine_disk(around(tmp_path, given)) if "in memory (tmpfs)" in finding.detail]
    assert [finding.state for finding in found if "journal" in finding.detail] == ["problem"]


def test_the_disk_of_a_folder_that_is_not_there_yet_is_looked_at(tmp_path: Path) -> None:
    found = examine_disk(around(tmp_path / "not" / "yet"))
    assert str(tmp_path) in found[0].detail


# Open files


@pytest.mark.parametrize(("limit", "state"), [(256, "problem"), (1024, "note"), (20_000, "ok")])
def test_the_limit_of_open_files_is_held_against_connections(tmp_path: Path, limit: int, state: str) -> None:
    finding = only(judge_open_files(around(tmp_path).settings, limit))
    assert finding.state == state
    assert ("LimitNOFILE=11185" in finding.remedy) is (state != "ok")


def test_this_process_has_a_limit_and_it_is_read(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (280, hard))
    try:
        found = examine_open_files(around(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert only(found).state == "problem"
    assert only(found).detail.startswith("280 a process")


# Permissions


def write(path: Path, text: str, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def open_to_others(folder: Path) -> None:
    """Let other accounts pass: pytest closes its folders, and the embedded PostgreSQL of root's is elsewhere then."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            return
        each.chmod(0o755)


def test_files_and_folders_that_are_closed_are_fine(tmp_path: Path) -> None:
    write(tmp_path / "admin.key", "made-up", 0o600)
    write(tmp_path / "peppers.json", "{}", 0o640)
    (tmp_path / "journal").mkdir(mode=0o700)
    shared = write(tmp_path / "gateway.env", "HX_ADMIN_KEY=made-up-made-up\n", 0o640)
    plain = "HX_TLS_KEY=/etc/x.pem\nQDRANT_API_KEY=\nPG_URL=none\n"
    open_to_all = write(tmp_path / "gateway-wrapper.env", plain, 0o644)
    found = examine_permissions(around(tmp_path, None, shared, open_to_all))
    assert told(found) == {"data directory": "ok", "permissions": "ok"}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("admin.key", 0o604), ("peppers.json", 0o660), ("postgres/credentials.json", 0o644), ("tls.key", 0o644)],
)
def test_a_secret_that_others_may_read_or_change_is_named_with_the_command(
    tmp_path: Path, name: str, mode: int
) -> None:
    open_to_others(tmp_path)
    path = write(tmp_path / name, "made-up", mode)
    certificate = write(tmp_path / "tls.pem", "made-up", 0o644)
    given = {"HX_TLS_KEY": str(path), "HX_TLS_CERT": str(certificate)} if name == "tls.key" else {}
    finding = only([each for each in examine_permissions(around(tmp_path, given)) if each.state == "problem"])
    assert str(path) in finding.detail
    assert finding.remedy.startswith(f"chmod o-rwx,g-w {path}")


@pytest.mark.parametrize("line", ["PG_URL=postgresql://hx:s3cret@db.example.org/hx", "UI_PASSWORD=s3cret"])
def test_an_environment_file_with_a_secret_must_be_closed_and_is_not_repeated(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "own.env", f"{line}\n", 0o644)
    finding = only([each for each in examine_permissions(around(tmp_path, None, path)) if each.state == "problem"])
    assert "own.env" in finding.detail
    assert "s3cret" not in str(finding)


def test_the_wired_secrets_are_looked_at_without_being_named(tmp_path: Path) -> None:
    here = around(tmp_path)
    write(here.layout.at(here.layout.secrets), "DATABASE_URL=postgresql://hx:made-up@db.example.org/hx\n", 0o644)
    assert told(examine_permissions(here))["permissions"] == "problem"


def test_a_journal_that_others_may_enter_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal").chmod(0o755)
    assert told(examine_permissions(around(tmp_path)))["permissions"] == "problem"


def test_a_data_directory_is_there_or_will_be_or_cannot_be_used(tmp_path: Path) -> None:
    assert told(examine_permissions(around(tmp_path / "later")))["data directory"] == "note"
    write(tmp_path / "file", "", 0o600)
    assert told(examine_permissions(around(tmp_path / "file")))["data directory"] == "problem"
    tmp_path.chmod(0o777)
    assert "chmod o-w" in examine_permissions(around(tmp_path))[0].remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_another_account_is_a_problem_for_who_may_not_write_there(tmp_path: Path) -> None:
    open_to_others(tmp_path)
    os.seteuid(65534)
    try:
        found = examine_permissions(around(tmp_path))
        assert told(examine_account(around(tmp_path))) == {"account": "ok"}
    finally:
        os.seteuid(0)
    assert found[0].state == "problem"
    assert "root's, and not writable" in found[0].detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_is_told_whom_to_look_as(tmp_path: Path) -> None:
    assert "account of its own" in only(examine_account(around(tmp_path))).remedy
    os.chown(tmp_path, 65534, 65534)
    assert "sudo -u nobody hx-gateway doctor" in only(examine_account(around(tmp_path))).remedy


# The clock


def test_a_clock_before_the_program_was_written_is_wrong(tmp_path: Path) -> None:
    settings = around(tmp_path).settings
    assert only(examine_clock(Surroundings(settings=settings))).state == "ok"
    wrong = only(examine_clock(Surroundings(settings=settings, now=lambda: EARLIEST - 1)))
    assert wrong.state == "problem"
    assert "NTP" in wrong.remedy
    # This file was written long after the first one, if the clock that says so was right.
    assert only(examine_clock(Surroundings(settings=settings, now=lambda: EARLIEST + 1))).state == "problem"


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Difference(0.2, 0.1), "ok"),
        (Difference(-1.2, 0.1), "note"),
        (Difference(-1.2, 0.5), "ok"),
        (Difference(5.2, 0.1), "problem"),
        (Difference(5.2, 0.3), "note"),
    ],
)
def test_only_what_is_surely_between_two_clocks_counts(found: Difference, state: str) -> None:
    assert judge_difference("Redis", found).state == state
