"""Strict decoding of a JSON object whose values stay as they were written."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from itertools import accumulate

import msgspec
from msgspec import Raw

MAX_DEPTH = 64
MAX_CONTAINERS = 100_000
# Up to this size a body is decoded a second time into Python objects: faster than looking at its bytes, but
# it multiplies memory, so larger ones are scanned instead.
WHOLE_DECODE_BYTES = 128 * 1024
# A second, slow parse that only names a duplicate key is not worth more than this.
EXPLAIN_BYTES = 1024 * 1024
WINDOW_BYTES = 1024 * 1024
MAX_INTEGER_DIGITS = 4300
MAX_SUSPECT_NUMBERS = 10_000

_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_WHOLE = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_BOM = b"\xef\xbb\xbf"
# The shortest further entry is ``,"":0``.
_SHORTEST_ENTRY_BYTES = 5

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_AS_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_AS_DIGIT_CLASS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_DIGITS = b"0" * 200
_SUSPECT_NUMBER = re.compile(rb"-?[0-9.]*[eE]\+?[0-9]{3,}|-?[0-9]{200,}[0-9.eE+-]*|-?[0-9]*\.[0-9]{200,}[0-9eE+-]*")
_POSITION = re.compile(r" \(byte (\d+)\)")
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class JSONObjectError(ValueError):
    """Bytes that are no JSON object as required; ``message`` is written for whoever sent them.

    ``code`` is one of ``invalid_json``, ``invalid_utf8``, ``not_an_object``, ``duplicate_key``,
    ``json_too_deep``, ``json_too_complex``, ``lone_surrogate`` and ``number_not_finite``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def encode_object(fields: Mapping[str, Raw]) -> bytes:
    """Return the JSON object of ``fields``, compact, with every value as it was written."""
    return _ENCODER.encode(fields)


def decode_object(data: bytes) -> dict[str, Raw]:
    """Return the members of the JSON object ``data``; the values are views of ``data``, verbatim.

    Stricter than RFC 8259 where readers differ, so that nobody behind can see another document: no duplicate
    keys at the top, no nesting over :data:`MAX_DEPTH`, no number beyond a double (integers: over
    :data:`MAX_INTEGER_DIGITS`), no lone surrogates, valid UTF-8 without a byte order mark.
    Raises :class:`JSONObjectError`.
    """
    if len(data) > WHOLE_DECODE_BYTES:
        return _decode_large(data)
    try:
        whole = _WHOLE.decode(data)
        fields = _FIELDS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(data, error) from error
    # Brackets in strings count too: few enough of both prove that the nesting is shallow.
    if len(data.translate(None, _NOT_BRACKETS)) > 2 * MAX_DEPTH and _is_deep(whole):
        raise _too_deep()
    _refuse_duplicates(data, fields)
    return fields


def _decode_large(data: bytes) -> dict[str, Raw]:
    try:
        fields = _FIELDS.decode(data)
        if not data.isascii():
            data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(data, error) from error
    outside = _outside_strings(data)
    steps = bytes(outside).translate(_AS_STEPS, _NOT_BRACKETS)
    if len(steps) > 2 * MAX_CONTAINERS:
        raise JSONObjectError("json_too_complex", f"The body holds more than {MAX_CONTAINERS:,} arrays and objects.")
    if len(steps) > 2 * MAX_DEPTH and max(accumulate(array("b", steps))) > MAX_DEPTH:
        raise _too_deep()
    _refuse_infinite(outside)
    _refuse_duplicates(data, fields)
    return fields


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for container in level:
            members = container.values() if isinstance(container, dict) else container
            below += [member for member in members if isinstance(member, dict | list)]  # type: ignore[attr-defined]
        if not below:
            return False
        level = below
    return True


def _outside_strings(data: bytes) -> bytearray:
    """Return valid JSON without its strings, in windows: a list of all pieces needs many times its size."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = bytearray()
    inside = 0
    for start in range(0, len(data), WINDOW_BYTES):
        pieces = data[start : start + WINDOW_BYTES].split(b'"')
        outside += b"".join(pieces[inside::2])
        inside ^= (len(pieces) - 1) & 1
    return outside


def _refuse_infinite(outside: bytearray) -> None:
    classes = outside.translate(_AS_DIGIT_CLASS)
    if b"e000" not in classes and b"e+000" not in classes and _LONG_DIGITS not in classes:
        return
    for count, match in enumerate(_SUSPECT_NUMBER.finditer(outside)):
        if count > MAX_SUSPECT_NUMBERS:
            raise JSONObjectError("json_too_complex", "The body holds too many numbers of extreme size.")
        if _is_infinite(bytes(match.group())):
            raise _not_finite()


def _is_infinite(number: bytes) -> bool:
    if number.lstrip(b"-").isdigit():
        return len(number.lstrip(b"-")) > MAX_INTEGER_DIGITS
    return float(number) in (float("inf"), float("-inf"))


def _refuse_duplicates(data: bytes, fields: dict[str, Raw]) -> None:
    """Raise for a key that came twice: the decoder keeps the last, others keep the first.

    The members must account for the size of the body; where white space or escapes keep that from telling,
    for its quotes.
    """
    known = sum(map(len, fields.values())) + sum(map(len, fields)) + 4 * len(fields) + 1
    if len(data) - known < _SHORTEST_ENTRY_BYTES:
        return
    quotes = 2 * len(fields) + sum([bytes(value).count(b'"') for value in fields.values()])
    if data.count(b'"') == quotes and not any('"' in key for key in fields):
        return
    if len(data) > EXPLAIN_BYTES:
        raise JSONObjectError("duplicate_key", "A key occurs twice in the body, or one is written with escapes.")
    keys = _top_level_keys(data)
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise JSONObjectError("duplicate_key", f"The key {key[:64]!r} occurs twice in the body.")
        seen.add(key)


def _top_level_keys(data: bytes) -> list[str]:
    keys: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        keys[:] = [key for key, _ in pairs]  # the outermost object is the last to be complete

    json.loads(data, object_pairs_hook=note, parse_int=len, parse_float=len)
    return keys


def _explain(data: bytes, error: Exception) -> JSONObjectError:
    return next(_reasons(data, error))


def _reasons(data: bytes, error: Exception) -> Iterator[JSONObjectError]:
    """Yield what is wrong with ``data``, the most telling reason first."""
    if not data.strip():
        yield JSONObjectError("invalid_json", "The body is empty: send a JSON object.")
    if data.startswith(_BOM):
        yield JSONObjectError("invalid_json", "The body begins with a byte order mark: send plain UTF-8.")
    try:
        data.decode()
    except UnicodeDecodeError as invalid:
        yield JSONObjectError("invalid_utf8", f"The body is not valid UTF-8 (byte {invalid.start}).")
    if isinstance(error, RecursionError):
        yield _too_deep()
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        if "out of range" in text:
            yield _not_finite()
        yield JSONObjectError("not_an_object", "The body must be a JSON object, like {'model': …}.")
    if escape := _lone_surrogate(data, text):
        yield JSONObjectError(
            "lone_surrogate", f"The body holds half of a character ({escape}): a text was cut inside of it."
        )
    reason = text.removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
    yield JSONObjectError("invalid_json", f"The body is not valid JSON: {reason}.")


def _lone_surrogate(data: bytes, text: str) -> str | None:
    """Return the escape that the decoder stopped at, if it is half of a pair."""
    position = _POSITION.search(text)
    if position is None:
        end = len(data)
    elif any(word in text for word in ("surrogate", "escape", "hex")):
        end = int(position.group(1))
    else:
        return None
    found = _LONE_SURROGATE.search(data, max(0, end - 12), min(len(data), end + 6))
    return found.group().decode() if found else None


def _too_deep() -> JSONObjectError:
    return JSONObjectError("json_too_deep", f"The body nests arrays and objects more than {MAX_DEPTH} deep.")


def _not_finite() -> JSONObjectError:
    return JSONObjectError("number_not_finite", "The body holds a number too large to be represented.")
