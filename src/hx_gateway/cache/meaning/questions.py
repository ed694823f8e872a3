"""What is compared by its meaning and what must be the same: a request, taken apart."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from hx_gateway.translate.openai import ModelRequest, Operation

# Longer texts are not compared. Models read the first 256 to 512 tokens and are blind to what follows: two long texts
# that differ at their ends would be the same to them.
MAX_TEXT_BYTES = 1024
# The whole message: a text may be written with six bytes for each of its own.
MAX_MESSAGE_BYTES = 8 * MAX_TEXT_BYTES
# What changes a number that it stands before, and what parts a number from the digits before it.
_SIGNS, _PARTINGS = frozenset("-+\u2212\u2013\u00b1~<>=*/^\u00d7\u00f7"), frozenset(".,:/'\u2019")


@dataclass(slots=True, kw_only=True)
class Wording:
    """How a request is worded, for whoever compares by meaning.

    ``identity`` is the digest of all that must be the same (:func:`take_apart`), ``text`` what is compared, and
    ``similarity`` how near an answer's own text must be: the cosine of the angle, from 0 to 1. ``vector`` is the
    text's embedding once it is known, so that it is worked out once.
    """

    identity: bytes
    text: str
    similarity: float
    vector: Sequence[float] | None = None

    @property
    def frame(self) -> str:
        """The digest of all but the text's meaning, the text's numbers among it.

        "Convert 5 km" and "convert 6 km" are near each other for every model, and their answers are not.
        """
        digest = hashlib.blake2b(self.identity, digest_size=16)
        for number in numbers_in(self.text):
            digest.update(b"\0" + number.encode())
        return digest.hexdigest()


_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def take_apart(call: ModelRequest) -> tuple[str, ModelRequest] | None:
    """Return the text that is compared, and the call without it, whose digest is the question's identity.

    The text is that of the last message, which is a user's. All before it must be the same, byte for byte: what "and
    in summer?" asks for is said there. ``None`` for what is not compared: other operations than chat, several answers
    at once, a last message that is not a user's or holds more than one text (images, files, results of tools), and
    texts that are empty or longer than :data:`MAX_TEXT_BYTES`.
    """
    if call.operation is not Operation.CHAT or call.n != 1:
        return None
    *earlier, last = _MESSAGES.decode(call.body["messages"])
    if len(last) > MAX_MESSAGE_BYTES:
        return None
    try:
        message = json.loads(bytes(last), object_pairs_hook=_without_doubles)
    except ValueError:
        return None
    text = _text_of(message["content"]) if message.get("role") == "user" and "content" in message else None
    if text is None or not text.strip() or len(text.encode()) > MAX_TEXT_BYTES:
        return None
    # As they were written: not every number that JSON may hold can be written again.
    fields = {**_FIELDS.decode(last), "content": msgspec.Raw(b"null")}
    frame = msgspec.Raw(msgspec.json.encode(fields))
    return text, replace(call, body={**call.body, "messages": msgspec.Raw(msgspec.json.encode([*earlier, frame]))})


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return ``pairs`` as an object. Raises ``ValueError`` for a name given twice.

    Which of two texts a model would read nobody knows: an answer to the one must not be kept under the other.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _text_of(content: object) -> str | None:
    """Return the text of a message that is one text and nothing else."""
    match content:
        case str():
            return content
        case [{"type": "text", "text": str() as text, **more}] if not more:
            return text
        case _:
            return None


def numbers_in(text: str) -> list[str]:
    """Return the numbers of a text in their order: runs of digits of any script, fractions and the like too.

    With the sign before them, and with what parts them from the digits before: ``-1.5`` is ``-1`` and ``.5``.
    """
    found, at = [], 0
    for numeric, run in itertools.groupby(text, str.isnumeric):
        digits, start = "".join(run), at
        at += len(digits)
        if numeric:
            before = text[start - 1 : start]
            parted = before in _PARTINGS and text[start - 2 : start - 1].isnumeric()
            found.append(before + digits if before in _SIGNS or parted else digits)
    return found
