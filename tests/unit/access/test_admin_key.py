"""The admin key: made once, kept privately, compared whole."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

from hx_gateway.access.admin_key import ADMIN_PRINCIPAL, AdminKeyAuthenticator, load_or_create_admin_key
from hx_gateway.access.principal import Scope
from hx_gateway.setting_values import check_admin_key

KEY = "a-long-admin-key-for-tests-0123456789"


async def test_the_key_is_accepted_and_holds_every_right() -> None:
    principal = await AdminKeyAuthenticator(KEY).authenticate(KEY)
    assert principal is ADMIN_PRINCIPAL
    assert principal.holds(frozenset(Scope))


async def test_anything_else_is_refused() -> None:
    authenticator = AdminKeyAuthenticator(KEY)
    for presented in ("", KEY[:-1], KEY + "x", KEY.upper(), "\udcff"):
        assert await authenticator.authenticate(presented) is None


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    key, made = load_or_create_admin_key(tmp_path)
    check_admin_key(key)
    assert made
    assert load_or_create_admin_key(tmp_path) == (key, False)
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["admin.key"]


def test_two_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    results: list[tuple[str, bool]] = []
    threads = [threading.Thread(target=lambda: results.append(load_or_create_admin_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key for key, _ in results}) == 1
    assert sum(made for _, made in results) == 1
