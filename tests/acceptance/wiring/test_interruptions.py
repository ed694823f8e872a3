"""A run that ends at any of its steps leaves whole files, and the next run finishes the job.

``HX_TEST_EVERY_CALL`` tries every step; without it each test tries one in four, beginning elsewhere.
"""

from __future__ import annotations

import errno
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.wiring import backups, files
from tests.acceptance.wiring.staging import BACKUPS, CONFIG, LITELLM_CONFIG, SECRETS, Tree

# Every call by which a run changes the file system.
CALLS = ("open", "fchown", "fchmod", "fsync", "replace", "symlink", "unlink", "mkdir", "rmdir")
KILLED = 9
STRIDE = 1 if "HX_TEST_EVERY_CALL" in os.environ else 4


@contextmanager
def at_call(number: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Do ``act`` in place of the call with this number, counted from 0; give the names of the calls that were made."""
    made: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            if len(made) == number + 1:
                act()
            return real(*arguments, **options)

        return call

    class Counted:
        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            return counted(name, real) if name in CALLS else real

    patch = pytest.MonkeyPatch()
    patch.setattr(files, "os", Counted())
    try:
        yield made
    finally:
        patch.undo()


def fail_with(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


def calls_of(tree: Tree, run: Callable[[], object]) -> int:
    with at_call(-1, lambda: None) as made:
        run()
    assert {"replace", "symlink", "mkdir"} <= set(made)
    return len(made)


def expected(tmp_path: Path) -> tuple[int, dict[str, tuple[object, ...]]]:
    (tmp_path / "expected").mkdir()
    tree = Tree(tmp_path / "expected")
    return calls_of(tree, lambda: tree.wire("--cache")), tree.files()


def whole(tree: Tree, done: dict[str, tuple[object, ...]]) -> None:
    """Check that the files people depend on are as before or as after."""
    assert tree.read(CONFIG) in (LITELLM_CONFIG, done[CONFIG][1].decode())  # type: ignore[attr-defined]
    if tree.path(SECRETS).exists():
        assert tree.files()[SECRETS] == done[SECRETS]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_is_told_and_the_next_run_finishes(tmp_path: Path, code: int) -> None:
    count, done = expected(tmp_path)
    for number in range(0 % STRIDE, count, STRIDE):
        folder = tmp_path / f"tree-{code}-{number}"
        folder.mkdir()
        tree = Tree(folder)
        with at_call(number, fail_with(code)):
            failed = tree.wire("--cache")
        if failed.exit_code == 0:
            # A folder's sync or an attribute that could not be: nothing was lost.
            assert tree.files() == done, number
            continue
        assert failed.exit_code == 1, (number, failed.output)
        assert os.strerror(code) in failed.output, (number, failed.output)
        assert "→" in failed.output
        whole(tree, done)
        assert not [name for name in tree.files() if name.endswith(".hx-draft")], number
        again = tree.wire("--cache")
        assert again.exit_code == 0, (number, again.output)
        assert tree.files() == done, number


def test_a_run_that_is_killed_at_any_call_is_finished_by_the_next(tmp_path: Path) -> None:
    count, done = expected(tmp_path)
    for number in range(1 % STRIDE, count, STRIDE):
        folder = tmp_path / f"tree-{number}"
        folder.mkdir()
        tree = Tree(folder)
        assert killed_at(number, lambda tree=tree: tree.wire("--cache")) == KILLED, number  # type: ignore[misc]
        whole(tree, done)
        again = tree.wire("--cache")
        assert again.exit_code == 0, (number, again.output)
        assert tree.files() == done, number


def test_what_an_interrupted_run_changed_can_be_put_back(tmp_path: Path) -> None:
    count, _ = expected(tmp_path)
    for number in range(2 % STRIDE, count, STRIDE):
        folder = tmp_path / f"tree-{number}"
        folder.mkdir()
        tree = Tree(folder)
        before = tree.files()
        killed_at(number, lambda tree=tree: tree.wire("--cache"))  # type: ignore[misc]
        stamps = [path.parent.name for path in tree.path(f"{BACKUPS}/wiring").glob("*/manifest.json")]
        if stamps:
            again = tree.run("wire", "--restore", stamps[0])
            assert again.exit_code == 0, again.output
        assert not stamps or tree.files() == before, number


def test_unwiring_that_is_killed_at_any_call_is_finished_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "wired").mkdir()
    wired = Tree(tmp_path / "wired")
    wired.wire("--cache")
    tree = copied(wired, tmp_path / "expected")
    with at_call(-1, lambda: None) as made:
        tree.unwire()
    done = tree.files()
    for number in range(3 % STRIDE, len(made), STRIDE):
        tree = copied(wired, tmp_path / f"tree-{number}")
        assert killed_at(number, tree.unwire) == KILLED
        again = tree.unwire()
        assert again.exit_code == 0, (number, again.output)
        assert tree.files() == done, number


def copied(tree: Tree, root: Path) -> Tree:
    subprocess.run(["cp", "-a", str(tree.root), str(root)], check=True)
    copy = Tree.__new__(Tree)
    copy.root, copy.environ = root, tree.environ
    return copy


def killed_at(number: int, run: Callable[[], object]) -> int:
    """Run in a process that ends at once, with nothing tidied up, at the call with this number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            with at_call(number, lambda: os._exit(KILLED)):
                run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_leaves_the_configuration_whole(tree: Tree, tmp_path: Path) -> None:
    disk = tree.root / "opt"
    kept = tmp_path / "kept"
    disk.rename(kept)
    disk.mkdir(mode=0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(disk)], check=True)
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        done = tree.wire()
        assert done.exit_code == 1
        assert "No space left on device" in done.output
        assert tree.read(CONFIG) == LITELLM_CONFIG
        filler.unlink()
        assert tree.wire().exit_code == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_somebody_changed_meanwhile_is_not_overwritten(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = backups.Backups.keep

    def slow(*arguments: Any) -> str:
        stamp = keep(*arguments)
        tree.write(CONFIG, LITELLM_CONFIG + "# edited\n")
        return stamp

    monkeypatch.setattr(backups.Backups, "keep", slow)
    done = tree.wire()
    assert done.exit_code == 1
    assert "was changed meanwhile by somebody else" in done.output
    assert tree.read(CONFIG) == LITELLM_CONFIG + "# edited\n"
