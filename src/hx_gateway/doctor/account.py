"""Whose account this is: root is more than the gateway needs, and sees more than its account would."""

from __future__ import annotations

import os
import pwd

from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok


def examine_account(around: Surroundings) -> list[Finding]:
    """Look at who runs this, and whose the data is."""
    uid = os.geteuid()
    if uid != 0:
        return [ok(Subject.ACCOUNT, name_of(uid))]
    owner = _owner(around)
    if owner not in (None, 0):
        whose = name_of(owner)
        detail = f"root looks, and the data directory is {whose}'s: what {whose} may not do is not seen"
        return [note(Subject.ACCOUNT, detail, f"Run it as that account: sudo -u {whose} hx-gateway doctor.")]
    return [note(Subject.ACCOUNT, "root", "Run the gateway as an account of its own, which owns HX_DATA_DIR alone.")]


def name_of(uid: int | None) -> str:
    """Return an account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return str(uid)


def _owner(around: Surroundings) -> int | None:
    try:
        return around.data_dir.stat().st_uid
    except OSError:
        return None
