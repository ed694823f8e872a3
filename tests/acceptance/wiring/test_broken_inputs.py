"""What is wrong with an installation or its inputs ends in a message, a code and files that are as they were."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.wiring.staging import (
    BACKUPS,
    BASE,
    CANARY,
    CONFIG,
    CORE_FOLDER,
    LINK,
    LITELLM_CONFIG,
    SECRETS,
    SETTINGS,
    Tree,
)

ROOT = os.geteuid() == 0
LINES = len(LITELLM_CONFIG.splitlines())


def given(**values: str) -> Callable[[Tree], None]:
    return lambda tree: tree.environ.update(values)


def config(text: str | bytes) -> Callable[[Tree], None]:
    def write(tree: Tree) -> None:
        tree.write(CONFIG, text)

    return write


def written(name: str, text: str, mode: int = 0o640) -> Callable[[Tree], None]:
    def write(tree: Tree) -> None:
        tree.write(name, text, mode)

    return write


def link_in_place_of(name: str) -> Callable[[Tree], None]:
    def move(tree: Tree) -> None:
        path = tree.write(name, tree.read(name) if tree.path(name).exists() else "")
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")

    return move


def folder_in_place_of(name: str) -> Callable[[Tree], None]:
    def make(tree: Tree) -> None:
        tree.path(name).unlink(missing_ok=True)
        tree.path(name).mkdir(parents=True)

    return make


def pipe(tree: Tree) -> None:
    tree.path(CONFIG).unlink()
    os.mkfifo(tree.path(CONFIG))


# What is broken, and what the message says about it; every line of it names a file, a variable or an option.
CASES: dict[str, tuple[Callable[[Tree], object], str]] = {
    "no configuration": (lambda tree: tree.path(CONFIG).unlink(), f"{CONFIG}: there is no such file"),
    "no base folder": (lambda tree: tree.path(BASE).rename(tree.root / "away"), f"{CONFIG}: there is no such file"),
    "YAML that is not closed": (config(LITELLM_CONFIG + "x: [1,\n"), f"{CONFIG}: line {LINES + 2}: not valid YAML"),
    "a tab": (config(LITELLM_CONFIG + "x:\n\ty: 1\n"), f"{CONFIG}: line {LINES + 2}: not valid YAML: a tab"),
    "a key twice": (
        config(LITELLM_CONFIG + "model_list: []\n"),
        f"line {LINES + 1}: the key 'model_list' is there twice",
    ),
    "a key of ours twice, once in quotes": (
        config("general_settings:\n  database_url: hid\n  'database_url': hid2\n"),
        f"{CONFIG}: line 3: general_settings.database_url is there twice",
    ),
    "two documents": (config(LITELLM_CONFIG + "---\na: 1\n"), f"line {LINES + 1}: a second document"),
    "a list": (config("- a\n"), "line 1: the file must hold a mapping"),
    "a section that is a list": (config("general_settings: [a]\n"), "line 1: general_settings must be a mapping"),
    "a section that is text": (config("a: 1\nlitellm_settings: on\n"), "line 2: litellm_settings must be a mapping"),
    "a section by alias": (config("a: &a {}\ngeneral_settings: *a\n"), "line 2: general_settings is an alias"),
    "not UTF-8": (config(b"a: 1\nb: \xff\n"), f"{CONFIG}: line 2: not valid UTF-8"),
    "a NUL": (config("a: \0\n"), f"{CONFIG}: holds a NUL"),
    "a control character": (config("a: 1\nb: \x01\n"), f"{CONFIG}: line 2: not valid YAML: a character"),
    "too large": (config("#" * (9 * 1024 * 1024)), f"{CONFIG}: is larger than"),
    "a link for the configuration": (link_in_place_of(CONFIG), f"{CONFIG}: is a link"),
    "a folder for the configuration": (folder_in_place_of(CONFIG), f"{CONFIG}: is a folder"),
    "a pipe for the configuration": (pipe, f"{CONFIG}: is not a plain file"),
    "a configuration that the service may not read": (
        lambda tree: tree.path(CONFIG).chmod(0o600 if ROOT else 0o000),
        f"{CONFIG}: ",
    ),
    "a folder that the service may not enter": (
        lambda tree: tree.path(f"{BASE}/config").chmod(0o700 if ROOT else 0o600),
        "config",
    ),
    "secrets open to everybody": (written(SECRETS, "A=1\n", 0o644), f"{SECRETS}: is open to everybody (mode 0644)"),
    "secrets that are a link": (link_in_place_of(SECRETS), f"{SECRETS}: is a link"),
    "secrets with an open quote": (written(SECRETS, "A=1\nB='hid\n"), f"{SECRETS}: line 2: a quote is not closed"),
    "secrets that end within a value": (written(SECRETS, "A=hid\\\n"), f"{SECRETS}: line 2: .*end it"),
    "secrets with a comment that goes on": (
        written(SECRETS, "# hid\\\nA=1\n"),
        f"{SECRETS}: line 1: a comment ends with a backslash",
    ),
    "settings with an open quote": (written(SETTINGS, 'A="hid\n', 0o644), f"{SETTINGS}: line 1: a quote"),
    "a folder for the settings": (folder_in_place_of(SETTINGS), f"{SETTINGS}: is a folder"),
    "another file where the link goes": (written(LINK, "a: 1\n", 0o644), f"{LINK}: is not the link to config.yaml"),
    "a file where drop-ins go": (written(CORE_FOLDER, "", 0o644), f"{CORE_FOLDER}: is not a folder"),
    "a folder for a drop-in": (folder_in_place_of(f"{CORE_FOLDER}/30-db.conf"), "30-db.conf: is a folder"),
    "no host of PostgreSQL": (given(PG_HOST=""), "PG_HOST is missing"),
    "no host of Redis": (given(REDIS_HOST=""), "REDIS_HOST is missing"),
    "no Qdrant": (given(QDRANT_URL=""), "QDRANT_URL is missing"),
    "a port that is none": (given(PG_PORT="54321x"), "PG_PORT is '54321x', which is not a port"),
    "a URL that is not encoded": (given(PG_HOST="", PG_URL="postgresql://u:hid/d@h/d"), "PG_URL: .*percent-encode"),
    "a URL and a host": (given(REDIS_URL="redis://h"), "REDIS_URL and REDIS_HOST are both given"),
    "a password that is not UTF-8": (given(PG_PASS="hid\udcff"), "PG_PASS is not valid UTF-8"),
    "an address with a space": (given(REDIS_HOST="a b"), "REDIS_HOST is 'a b'"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_is_named_and_nothing_is_changed(tree: Tree, name: str) -> None:
    breaks, message = CASES[name]
    breaks(tree)
    before = unchanged(tree)
    done = tree.wire()
    shown = " ".join(done.output.split())
    assert done.exit_code in (1, 78), done.output
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit)
    assert all(part in shown for part in message.split(".*")), done.output
    assert "fail" in done.output or done.output.startswith("hx-gateway: ")
    assert "→" in done.output or done.exit_code == 78
    assert "hid" not in done.output
    assert CANARY not in done.output
    assert unchanged(tree) == before


def unchanged(tree: Tree) -> list[tuple[str, bytes | str]]:
    """Return what can be seen of the tree, backups too; what is closed to an ordinary user is left out."""
    found = []
    for folder, _, names in os.walk(tree.root):
        for path in (Path(folder) / name for name in names):
            content: bytes | str = "closed"
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file() and os.access(path, os.R_OK):
                content = path.read_bytes()
            found.append((str(path), content))
    return sorted(found, key=str)


@pytest.mark.skipif(not ROOT, reason="only root can give a file to another account")
def test_secrets_of_a_stranger_are_refused(tree: Tree) -> None:
    tree.write(SECRETS, "A=1\n", 0o640)
    os.chown(tree.path(SECRETS), 65534, 65534)
    done = tree.wire()
    assert done.exit_code == 1
    assert "belongs to an account that is not the gateway's (uid 65534)" in done.output
    assert "database_url" not in tree.read(CONFIG).replace("# database_url", "")


@pytest.mark.skipif(not ROOT, reason="only root can give a file to another group")
@pytest.mark.parametrize(("mode", "refused"), [(0o640, True), (0o660, True), (0o600, False)])
def test_secrets_that_another_group_may_read_are_refused(tree: Tree, mode: int, refused: bool) -> None:
    tree.write(SECRETS, "A=1\n", mode)
    os.chown(tree.path(SECRETS), 0, 65534)
    done = tree.wire()
    assert done.exit_code == refused
    assert ("is open to a group that is not the gateway's (gid 65534)" in done.output) is refused


@pytest.mark.skipif(not ROOT, reason="needs files of another account")
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_an_ordinary_user_cannot_change_what_is_of_another_account(tree: Tree, closed: str) -> None:
    for path in (tree.root, *tree.root.rglob("*")):
        os.chown(path, 65534, 65534)
    if closed == "file":
        os.chown(tree.path(CONFIG), 0, 0)
    else:
        os.chown(tree.path(CONFIG).parent, 0, 0)
    tree.root.parent.chmod(0o755)
    before = unchanged(tree)
    with as_nobody(tree.root):
        done = tree.wire()
    assert done.exit_code == 1
    wanted = (
        f"{CONFIG}: belongs to another account (uid 0)"
        if closed == "file"
        else "config/api-gateway: cannot be written to"
    )
    assert wanted in done.output
    assert "Run this as root" in done.output
    assert unchanged(tree) == before


@contextmanager
def as_nobody(root: Path) -> Iterator[None]:
    """Be another account, which may pass to ``root``, for a while."""
    closed = [folder for folder in root.parents if not folder.stat().st_mode & 0o001]
    modes = {folder: folder.stat().st_mode for folder in closed}
    for folder in closed:
        folder.chmod(modes[folder] | 0o055)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        for folder, mode in modes.items():
            folder.chmod(mode)


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
@pytest.mark.parametrize("name", [f"{BASE}/config/api-gateway", f"{BASE}/config", "etc", BASE])
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_changes(tree: Tree, name: str) -> None:
    before = unchanged(tree)
    tree.path(name).chmod(0o555)
    done = tree.wire()
    tree.path(name).chmod(0o755)
    assert done.exit_code == 1
    assert f"{name}: cannot be" in done.output
    assert unchanged(tree) == before


@pytest.mark.skipif(not ROOT, reason="only root can mount a file system")
@pytest.mark.parametrize("name", [BASE, f"{BASE}/config/api-gateway", "etc"])
def test_a_file_system_that_root_cannot_write_to_either_is_named(tree: Tree, name: str) -> None:
    before = unchanged(tree)
    folder = str(tree.path(name))
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        done = tree.wire()
    finally:
        subprocess.run(["umount", folder], check=True)
    assert done.exit_code == 1
    assert f"{name}" in done.output
    assert "cannot be written to" in done.output
    assert "not read-only" in done.output
    assert unchanged(tree) == before
    assert tree.wire().exit_code == 0


def test_two_runs_at_once_are_one_too_many(tree: Tree) -> None:
    folder = tree.path(f"{BACKUPS}/wiring")
    folder.mkdir(parents=True)
    before = unchanged(tree)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = tree.wire()
    finally:
        os.close(held)
    assert done.exit_code == 1
    assert "another run changes this installation" in done.output
    assert unchanged(tree) == before
    assert tree.wire().exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--base", "relative"), "--base 'relative' must be an absolute path"),
        (("--base", "/a/../b"), "must be an absolute path"),
        (("--base", "/a\nb"), "holds a character that a unit's file cannot hold"),
        (("--base", f"/{'a/' * 3000}"), "File name too long"),
        (("--mirror",), "--mirror goes with --cache"),
        (("--restore", "20200101T000000Z"), "has no backup '20200101T000000Z'"),
        (("--restore", "../../etc"), "has no backup '../../etc'"),
        (("--env-file", "/nowhere/inputs.env"), "--env-file '/nowhere/inputs.env': No such file"),
    ],
)
def test_options_that_cannot_be_are_named(tree: Tree, options: tuple[str, ...], message: str) -> None:
    before = unchanged(tree)
    done = tree.wire(*options)
    assert done.exit_code in (1, 78)
    assert isinstance(done.exception, SystemExit)
    assert message in done.output
    assert unchanged(tree) == before


def test_a_file_of_inputs_that_others_may_read_is_refused(tree: Tree) -> None:
    path = tree.write("../inputs.env", "PG_PASS=hidden\n", 0o644)
    done = tree.wire("--env-file", str(path))
    assert done.exit_code == 78
    assert "chmod 600" in done.output
    assert "hidden" not in done.output


def test_a_damaged_backup_is_named_and_nothing_is_changed(tree: Tree) -> None:
    tree.wire()
    (stamp,) = tree.stamps()
    tree.path(f"{BACKUPS}/wiring/{stamp}/manifest.json").write_text('{"entries": [{"path": "/x"}]}')
    before = tree.files()
    done = tree.run("wire", "--restore", stamp)
    assert done.exit_code == 1
    assert "is damaged: nothing was changed" in done.output
    assert tree.files() == before


@pytest.mark.parametrize("name", [CONFIG, BASE])
def test_unwiring_what_is_not_there_is_refused(tree: Tree, name: str) -> None:
    tree.path(name).rename(tree.root / "away")
    done = tree.unwire()
    assert done.exit_code == 78
    assert "nothing to unwire" in done.output
    assert "--base" in done.output


def test_unwiring_a_broken_configuration_changes_nothing(tree: Tree) -> None:
    tree.wire()
    tree.write(CONFIG, tree.read(CONFIG) + "x: [\n")
    before = tree.files()
    done = tree.unwire()
    assert done.exit_code == 1
    assert f"{CONFIG}: line" in done.output
    assert tree.files() == before
