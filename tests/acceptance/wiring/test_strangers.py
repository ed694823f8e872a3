"""Whoever owns a folder that root wires in leads it to no other place, and no backup is theirs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.wiring import files
from hx_gateway.wiring.backups import Backups
from hx_gateway.wiring.folders import entered, read_file
from hx_gateway.wiring.layout import Layout
from tests.acceptance.wiring.staging import BACKUPS, BASE, CONFIG, LITELLM_CONFIG, SECRETS, Tree

STRANGER = 65534
FOLDER = f"{BASE}/config/api-gateway"
STAMPS = f"{BACKUPS}/wiring"
root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root is led elsewhere, and has other accounts to be led by"
)


def link_of(tree: Tree, name: str, uid: int) -> Path:
    """Move a folder away and put a link to it in its place, which belongs to ``uid``; return where it is."""
    moved = tree.root / "elsewhere"
    tree.path(name).rename(moved)
    tree.path(name).symlink_to(moved)
    os.chown(tree.path(name), uid, uid, follow_symlinks=False)
    return moved


@root_only
@pytest.mark.parametrize("name", [FOLDER, f"{BASE}/config", BASE])
def test_a_strangers_link_on_the_way_is_not_followed(tree: Tree, name: str) -> None:
    link_of(tree, name, STRANGER)
    before = tree.files()
    done = tree.wire()
    assert done.exit_code == 1
    assert f"{Path(name).name} on the way to it is a link of another account's (uid {STRANGER})" in done.output
    assert tree.files() == before


@pytest.mark.parametrize("name", [FOLDER, f"{BASE}/config", BASE])
def test_a_link_of_ones_own_on_the_way_is_followed(tree: Tree, name: str) -> None:
    link_of(tree, name, os.geteuid())
    done = tree.wire()
    assert done.exit_code == 0, done.output
    assert "database_url" in tree.read(CONFIG)
    assert tree.wire().output.splitlines()[-1] == "nothing was changed"


@root_only
def test_a_link_that_comes_between_a_look_and_the_change_leads_nowhere(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    give = files._give

    def swapped(descriptor: int, owner: Any) -> None:
        if not tree.path(FOLDER).is_symlink():
            tree.path(FOLDER).rename(tree.root / "moved")
            tree.path(FOLDER).symlink_to(outside)
            os.chown(tree.path(FOLDER), STRANGER, STRANGER, follow_symlinks=False)
        give(descriptor, owner)

    keep = Backups.keep

    def kept(*arguments: Any) -> str:
        stamp = keep(*arguments)
        monkeypatch.setattr(files, "_give", swapped)
        return stamp

    monkeypatch.setattr(Backups, "keep", kept)
    done = tree.wire()
    assert done.exit_code == 1
    assert list(outside.iterdir()) == []
    # What had begun was done where the folder is now.
    assert (tree.root / "moved/gateway.env").exists()
    assert (tree.root / "moved/config.yaml").read_text() == LITELLM_CONFIG


def test_what_became_a_link_since_it_was_looked_at_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    (tmp_path / "link").symlink_to("secret")
    with entered(tmp_path) as folder, pytest.raises(OSError, match="symbolic links"):
        read_file("link", folder, 100)


def test_links_that_lead_to_each_other_end(tree: Tree) -> None:
    tree.path(FOLDER).rename(tree.root / "away")
    tree.path(FOLDER).symlink_to("other")
    tree.path(f"{BASE}/config/other").symlink_to("api-gateway")
    done = tree.wire()
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)


@root_only
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_backups_go_into_no_folder_that_somebody_else_can_change(tree: Tree, how: str) -> None:
    folder = tree.path(STAMPS)
    folder.mkdir(parents=True)
    if how == "owner":
        os.chown(folder, STRANGER, STRANGER)
    else:
        folder.chmod(0o777)
    before = tree.files()
    done = tree.wire()
    assert done.exit_code == 1
    assert f"{STAMPS}: can be changed by another account" in done.output
    assert "chmod 700" in done.output
    assert tree.files() == before
    assert tree.stamps() == []


def forged(tree: Tree, path: str, uid: int) -> str:
    """Make a backup that says what was at ``path``; return its stamp."""
    folder = tree.path(f"{STAMPS}/29990101T000000Z")
    folder.mkdir(parents=True)
    entry = {"path": path, "kind": "file", "copy": "0", "mode": "0666", "uid": 0, "gid": 0}
    (folder / "0").write_text("forged")
    (folder / "manifest.json").write_text(json.dumps({"entries": [entry]}))
    for name in (folder, folder / "0", folder / "manifest.json"):
        os.chown(name, uid, -1)
    return folder.name


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/etc/passwd", f"/{BASE}/config/x", f"/{SECRETS}/../../x", f"/{BACKUPS}"]
)
def test_a_backup_of_what_wiring_never_changes_is_not_put_back(tree: Tree, path: str) -> None:
    stamp = forged(tree, path, os.geteuid())
    before = tree.files()
    done = tree.run("wire", "--restore", stamp)
    assert done.exit_code == 1
    assert "is damaged: nothing was changed" in done.output
    assert tree.files() == before


@root_only
def test_a_backup_that_somebody_else_wrote_is_not_put_back_with_any_other(tree: Tree) -> None:
    tree.wire()
    (stamp,) = tree.stamps()
    forged(tree, f"/{CONFIG}", STRANGER)
    before = tree.files()
    done = tree.run("wire", "--restore", stamp)
    assert done.exit_code == 1
    assert "is damaged: nothing was changed" in done.output
    assert tree.files() == before


def test_a_run_after_the_clock_was_set_back_comes_after_those_before_it(tree: Tree) -> None:
    before = tree.files()
    tree.wire()
    kept = Backups(Layout(tree.root))
    first = kept.stamps()
    second = kept.keep("wire", [], datetime(2001, 1, 1, tzinfo=UTC))
    assert kept.stamps() == [*first, second]
    assert tree.run("wire", "--restore", first[0]).exit_code == 0
    assert tree.files() == before
