"""Peppers: the secrets outside the database that make the digests in it useless to whoever only has the database."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hx_gateway.access.private_files import RULE, read_private

PEPPER_FILE = "peppers.json"
MIN_PEPPER_BYTES = 32
_MIN_DISTINCT_BYTES = 12
_MAX_FILE_BYTES = 64 * 1024
_PEPPER_ID = re.compile(r"[0-9A-Za-z_.-]{1,32}")
# Words of examples and defaults: a pepper that holds one was copied, not made.
_WELL_KNOWN = re.compile(
    rb"change[-_]?me|secret|password|pepper|example|default|sk-1234|12345678|abcdefgh|your-|replace|insecure",
    re.IGNORECASE,
)


class PepperError(ValueError):
    """Peppers that must not be used; the text names the file and the rule and never the value."""


class _PepperFile(msgspec.Struct, forbid_unknown_fields=True):
    current: str
    peppers: dict[str, str]


class Peppers:
    """The current pepper, and older ones that digests may still be made with.

    Raises :class:`PepperError` for one that is short, made of few different bytes, or well known.
    """

    def __init__(self, peppers: Mapping[str, bytes], current: str) -> None:
        if current not in peppers:
            raise PepperError("the current pepper is not among the peppers")
        for pepper_id, pepper in peppers.items():
            _check(pepper_id, pepper)
        self._peppers = dict(peppers)
        self.current = current
        self._dummy = secrets.token_bytes(MIN_PEPPER_BYTES)

    @property
    def oldest(self) -> str:
        """The id of the first pepper of the file: what must outlive rotations is derived from it."""
        return next(iter(self._peppers))

    def knows(self, pepper_id: str) -> bool:
        """Return whether digests made with that pepper can be compared."""
        return pepper_id in self._peppers

    def digest(self, text: str) -> tuple[str, bytes]:
        """Return the current pepper's id, and the digest to store for the whole key ``text``."""
        return self.current, _mac(self._peppers[self.current], text)

    def matches(self, text: str, pepper_id: str, digest: bytes) -> bool:
        """Return whether ``digest`` was made of ``text``, in a time that does not tell. False for an unknown pepper."""
        pepper = self._peppers.get(pepper_id)
        # Without a pepper, one that nobody knows: it takes as long and matches nothing.
        return hmac.compare_digest(_mac(self._dummy if pepper is None else pepper, text), digest)

    def waste(self, text: str) -> None:
        """Take the time of :meth:`matches`, so that an unknown id is not told by its quick answer."""
        self.matches(text, "", self._dummy)

    def derive(self, purpose: str, pepper_id: str | None = None) -> bytes | None:
        """Return a key for another ``purpose``, ``None`` where there is no such pepper (the current by default)."""
        pepper = self._peppers.get(self.current if pepper_id is None else pepper_id)
        return None if pepper is None else hmac.digest(pepper, f"derive\0{purpose}".encode(), hashlib.sha256)


def _mac(pepper: bytes, text: str) -> bytes:
    return hmac.digest(pepper, text.encode("utf-8", "surrogateescape"), hashlib.sha256)


def _check(pepper_id: str, pepper: bytes) -> None:
    if not _PEPPER_ID.fullmatch(pepper_id):
        raise PepperError(f"{pepper_id!r} is no id of a pepper: letters, digits, '_', '.' and '-', at most 32")
    if len(pepper) < MIN_PEPPER_BYTES:
        raise PepperError(f"pepper {pepper_id!r} is too short: at least {MIN_PEPPER_BYTES} random bytes are needed")
    steps = {(after - before) % 256 for before, after in itertools.pairwise(pepper)}
    if len(set(pepper)) < _MIN_DISTINCT_BYTES or len(steps) == 1:
        raise PepperError(f"pepper {pepper_id!r} is not random: make it of {MIN_PEPPER_BYTES} random bytes")
    if _WELL_KNOWN.search(pepper):
        raise PepperError(f"pepper {pepper_id!r} is well known: make it of {MIN_PEPPER_BYTES} random bytes")


def load_peppers(path: Path) -> Peppers:
    """Return the peppers of a file: ``{"current": "<id>", "peppers": {"<id>": "<hexadecimal digits>"}}``.

    Raises :class:`PepperError` for one that is missing, open to others, or holds what must not be used.
    """
    try:
        return _peppers_of(_read(path))
    except PepperError as error:
        raise PepperError(f"{path}: {error}") from None


def load_or_create_peppers(data_dir: Path) -> Peppers:
    """Return the peppers kept in ``data_dir``, making the first one if there are none.

    The file has mode 0600 and appears whole or not at all; of two processes that start at once, one makes the pepper
    and both use it. Raises :class:`PepperError`.
    """
    path = data_dir / PEPPER_FILE
    # Not ``exists``: a link that leads nowhere is there, and is refused when it is read.
    if not os.path.lexists(path):
        pepper_id = _new_id()
        draft = _write_draft(path, _PepperFile(pepper_id, {pepper_id: secrets.token_hex(MIN_PEPPER_BYTES)}))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
    return load_peppers(path)


def add_pepper(path: Path) -> str:
    """Add a new pepper to the file without using it yet; return its id.

    A pepper must be known wherever keys are checked before anybody makes digests with it: restart what shares the
    file, or has a copy of it, between this and :func:`use_pepper`.
    """
    kept = _read(path)
    _peppers_of(kept)
    pepper_id = _new_id()
    kept.peppers[pepper_id] = secrets.token_hex(MIN_PEPPER_BYTES)
    _write_draft(path, kept).replace(path)
    return pepper_id


def use_pepper(path: Path, pepper_id: str) -> None:
    """Make ``pepper_id`` the current one in the file. Raises :class:`PepperError` for one that is not in it."""
    kept = _read(path)
    kept.current = pepper_id
    _peppers_of(kept)
    _write_draft(path, kept).replace(path)


def _new_id() -> str:
    return f"pp-{secrets.token_hex(6)}"


def _peppers_of(kept: _PepperFile) -> Peppers:
    try:
        return Peppers({pepper_id: bytes.fromhex(text) for pepper_id, text in kept.peppers.items()}, kept.current)
    except PepperError:
        raise
    except ValueError:
        raise PepperError("a pepper is not written in hexadecimal digits") from None


def _read(path: Path) -> _PepperFile:
    try:
        text = read_private(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise PepperError(error.strerror if error.strerror == RULE else f"cannot be read: {error.strerror}") from None
    try:
        return msgspec.json.decode(text, type=_PepperFile)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise PepperError("is not a file of peppers") from None


def _write_draft(path: Path, kept: _PepperFile) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(kept) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return draft
