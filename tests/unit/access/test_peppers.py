"""Peppers: a digest tells nothing without one, and one that everybody knows is refused."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from hx_gateway.access.key_format import mint_key
from hx_gateway.access.peppers import (
    PEPPER_FILE,
    PepperError,
    Peppers,
    add_pepper,
    load_or_create_peppers,
    load_peppers,
    use_pepper,
)

GOOD = bytes.fromhex("9f1c77a3b05d4e2688c1f0e94b73d25a6e0813fcd7924ab1503ec86f2d9be714")


def test_a_digest_is_the_mac_of_the_whole_text() -> None:
    text = mint_key().text
    peppers = Peppers({"pp-1": GOOD}, "pp-1")
    assert peppers.digest(text) == ("pp-1", hmac.new(GOOD, text.encode(), hashlib.sha256).digest())


def test_only_the_same_text_under_the_same_pepper_matches() -> None:
    peppers = Peppers({"pp-1": GOOD, "pp-2": os.urandom(32)}, "pp-1")
    text = mint_key().text
    pepper_id, digest = peppers.digest(text)
    assert peppers.matches(text, pepper_id, digest)
    assert not peppers.matches(text[:-1], pepper_id, digest)
    assert not peppers.matches(text, "pp-2", digest)
    assert not peppers.matches(text, "pp-9", digest)
    assert not peppers.matches(text, pepper_id, digest[:16])


@pytest.mark.parametrize(
    ("pepper", "words"),
    [
        (b"", "too short"),
        (GOOD[:31], "too short"),
        (bytes(32), "not random"),
        (b"ab" * 32, "not random"),
        (bytes(range(32)), "not random"),
        (b"please-ChangeMe-before-production!!", "well known"),
        (b"a very secret Pepper of this house", "well known"),
        (b"sk-1234 and some other characters", "well known"),
    ],
)
def test_a_weak_pepper_is_refused_and_not_repeated(pepper: bytes, words: str) -> None:
    with pytest.raises(PepperError, match=words) as caught:
        Peppers({"pp-1": pepper}, "pp-1")
    assert pepper == b"" or pepper.decode("latin-1") not in str(caught.value)


def test_an_older_pepper_must_be_good_as_well() -> None:
    with pytest.raises(PepperError, match="'pp-0' is too short"):
        Peppers({"pp-1": GOOD, "pp-0": b"x"}, "pp-1")


def test_the_current_pepper_must_be_there() -> None:
    with pytest.raises(PepperError, match="not among"):
        Peppers({"pp-1": GOOD}, "pp-2")


def test_the_first_pepper_is_made_once_and_is_private(tmp_path: Path) -> None:
    made = load_or_create_peppers(tmp_path)
    assert load_or_create_peppers(tmp_path).digest("x") == made.digest("x")
    assert stat.S_IMODE((tmp_path / PEPPER_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [PEPPER_FILE]


def test_two_first_starts_at_once_agree_on_one_pepper(tmp_path: Path) -> None:
    digests: list[tuple[str, bytes]] = []
    threads = [
        threading.Thread(target=lambda: digests.append(load_or_create_peppers(tmp_path).digest("x"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 8
    assert len(set(digests)) == 1


def test_a_pepper_is_known_before_it_is_used_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / PEPPER_FILE
    before = load_or_create_peppers(tmp_path)
    added = add_pepper(path)
    between = load_peppers(path)
    use_pepper(path, added)
    after = load_peppers(path)
    assert between.current == before.current
    assert after.current == added
    assert between.matches("text", *after.digest("text"))
    assert after.matches("text", *before.digest("text"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pepper_that_is_not_in_the_file_cannot_be_used(tmp_path: Path) -> None:
    load_or_create_peppers(tmp_path)
    with pytest.raises(PepperError, match="not among"):
        use_pepper(tmp_path / PEPPER_FILE, "pp-other")
    load_peppers(tmp_path / PEPPER_FILE)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    load_or_create_peppers(tmp_path)
    (tmp_path / PEPPER_FILE).chmod(mode)
    with pytest.raises(PepperError, match="chmod 600"):
        load_peppers(tmp_path / PEPPER_FILE)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"current": "a", "peppers": {"a": "zz"}}', b'{"current": "a", "peppers": {}}', b"\xff"]
)
def test_a_file_that_holds_no_peppers_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / PEPPER_FILE
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(PepperError, match=r"peppers\.json: "):
        load_or_create_peppers(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.write_bytes(msgspec.json.encode({"current": "pp-1", "peppers": {"pp-1": GOOD.hex()}}))
    real.chmod(0o600)
    (tmp_path / PEPPER_FILE).symlink_to(real)
    with pytest.raises(PepperError, match="cannot be read"):
        load_or_create_peppers(tmp_path)


def test_keys_for_other_purposes_differ() -> None:
    peppers = Peppers({"pp-1": GOOD}, "pp-1")
    assert peppers.derive("a") != peppers.derive("b")
    assert peppers.derive("a", "pp-9") is None
