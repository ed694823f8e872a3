"""Changes single keys of a YAML text in place: every byte of what is not touched stays as it is.

A path names keys of nested mappings. Each change is parsed again and compared with what was meant; what cannot be
changed so that the two are equal is refused with :class:`YamlProblem`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hx_gateway.wiring.text_lines import LINE_BREAK, break_of, line_end, line_start, with_lines, without_lines
from hx_gateway.wiring.yaml_tree import (
    BYTE_ORDER_MARK,
    MERGE_KEY,
    Document,
    Node,
    Shape,
    YamlProblem,
    parse,
)

Path = Sequence[str]
Scalar = str | bool

USUAL_STEP = 2
_NOTHING: Shape = ("scalar", None, None, None, "", ())
_BEFORE_KEY = re.compile(f"{BYTE_ORDER_MARK}?( *)(?:\\? +)?")
_COLON = re.compile(r"\s*:")
_COMMA = re.compile(r"(?:\s|#[^\r\n]*)*?,")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A way to make a change: the text it gives, and what that must mean."""

    text: str
    shape: Shape | None


def get_value(text: str, path: Path) -> Node | None:
    """Return the node at ``path``, ``None`` where there is none. Raises :class:`YamlProblem`."""
    document = parse(text)
    found = _walk(document, path)
    return found[-1][1] if len(found) == len(path) else None


def set_value(text: str, path: Path, value: Scalar) -> str:
    """Return ``text`` with ``value`` at ``path``, and the mappings above it where they were missing.

    ``value`` is a boolean, or a string that YAML reads as a string as it is.
    """
    document = parse(text)
    wanted = ("true" if value else "false") if isinstance(value, bool) else value
    found = _walk(document, path)
    if len(found) == len(path) and _says(found[-1][1], wanted, value):
        return text
    return _first_that_holds(document, path, _ways_to_set(document, path, wanted))


def delete_key(text: str, path: Path) -> str:
    """Return ``text`` without the key at ``path``; a block mapping without any is null then, a flow mapping empty."""
    document = parse(text)
    found = _walk(document, path)
    if len(found) < len(path):
        _refuse_merged(document, path, found)
        return text
    _refuse_shared(document, path, found[-1])
    mapping = _mapping_above(document, found)
    key, value = found[-1]
    ways = _ways_out_of_flow if mapping.flow else _ways_out_of_block
    shape = _without(document, path)
    return _first_that_holds(document, path, [_Candidate(new, shape) for new in ways(document, mapping, key, value)])


# Finding


def _walk(document: Document, path: Path) -> list[tuple[Node, Node]]:
    """Return the entries along ``path``, as far as there are any."""
    node, found = document.root, []
    if node is not None and node.kind != "mapping":
        raise YamlProblem(document.line_of(node.start), "the file must hold a mapping")
    for depth, name in enumerate(path):
        if node is None or (node.is_null and depth):
            break
        if node.kind == "alias":
            raise _problem(document, path[:depth], node, "is an alias: write its keys out there")
        if node.kind != "mapping":
            raise _problem(document, path[:depth], node, "must be a mapping")
        if node.anchor in document.aliases:
            raise _problem(document, path[:depth], node, "is used elsewhere too, by its anchor: write that out there")
        named = [key for key, _ in node.entries if key.kind == "scalar" and key.text == name]
        if len(named) > 1:
            # One in quotes, one without: the same to who reads them, and the last one holds.
            raise _problem(document, path[: depth + 1], named[1], "is there twice")
        entry = node.entry(name)
        if entry is None:
            break
        found.append(entry)
        node = entry[1]
    return found


def _mapping_above(document: Document, found: list[tuple[Node, Node]]) -> Node:
    above = document.root if len(found) == 1 else found[-2][1]
    assert above is not None
    return above


def _says(node: Node, wanted: str, value: Scalar) -> bool:
    if node.kind != "scalar" or node.tag is not None:
        return False
    return node.text == wanted and (node.style is None or not isinstance(value, bool))


def _refuse_merged(document: Document, path: Path, found: list[tuple[Node, Node]]) -> None:
    """Refuse what is not in the mapping itself but comes into it: it would stay."""
    mapping = found[-1][1] if found else document.root
    merge = mapping.entry(MERGE_KEY) if mapping is not None and mapping.kind == "mapping" else None
    if merge is None:
        return
    sources = merge[1].children if merge[1].kind == "sequence" else [merge[1]]
    for source in sources:
        merged = document.anchors[source.text] if source.kind == "alias" else source
        if merged.entry(path[len(found)]) is not None or merged.entry(MERGE_KEY) is not None:
            raise _problem(document, path, merge[0], "may come through a merge (<<): write the keys out there")


def _refuse_shared(document: Document, path: Path, entry: tuple[Node, Node]) -> None:
    if any(node.anchor in document.aliases for part in entry for node in part.walk() if node.anchor is not None):
        raise _problem(document, path, entry[1], "has an anchor that is referred to elsewhere: write that out there")


def _problem(document: Document, path: Path, node: Node, words: str) -> YamlProblem:
    return YamlProblem(document.line_of(node.start), f"{'.'.join(path)} {words}")


def _first_that_holds(document: Document, path: Path, candidates: list[_Candidate]) -> str:
    for candidate in candidates:
        try:
            root = parse(candidate.text).root
        except YamlProblem:
            continue
        if (root.shape() if root is not None else None) == candidate.shape:
            return candidate.text
    found = _walk(document, path)
    line = document.line_of(found[-1][0].start) if found else 1
    raise YamlProblem(line, f"{'.'.join(path)} is written in a way that cannot be changed safely: change it by hand")


# Shapes: what a change must mean


def _scalar(text: str) -> Shape:
    return ("scalar", None, None, None, text, ())


def _mapping(*children: Shape) -> Shape:
    return ("mapping", None, None, None, "", children)


def _nested(path: Path, wanted: str) -> Shape:
    shape = _scalar(wanted)
    for name in reversed(path):
        shape = _mapping(_scalar(name), shape)
    return shape


def _with(node: Node | None, path: Path, wanted: str, *, first: bool) -> Shape:
    """Return the shape of ``node`` with ``wanted`` at ``path``; a new key stands last, or ``first``."""
    if not path:
        return _scalar(wanted)
    if node is None or node.is_null:
        return _nested(path, wanted)
    children: list[Shape] = []
    for key, value in node.entries:
        hit = key.kind == "scalar" and key.text == path[0]
        children += [key.shape(), _with(value, path[1:], wanted, first=first) if hit else value.shape()]
    if node.entry(path[0]) is None:
        made = [_scalar(path[0]), _nested(path[1:], wanted)]
        children = [*made, *children] if first else [*children, *made]
    return (*node.shape()[:-1], tuple(children))


def _without(document: Document, path: Path) -> Shape | None:
    def cut(node: Node, path: Path) -> Shape:
        children: list[Shape] = []
        for key, value in node.entries:
            hit = key.kind == "scalar" and key.text == path[0]
            if not hit:
                children += [key.shape(), value.shape()]
            elif len(path) > 1:
                children += [key.shape(), cut(value, path[1:])]
        if not children and not node.flow:
            return (*_NOTHING[:2], node.anchor, *_NOTHING[3:])
        return (*node.shape()[:-1], tuple(children))

    assert document.root is not None
    shape = cut(document.root, path)
    return None if shape == _NOTHING else shape


# Setting


def _ways_to_set(document: Document, path: Path, wanted: str) -> list[_Candidate]:
    found = _walk(document, path)
    root = document.root
    if len(found) == len(path):
        _refuse_shared(document, path, found[-1])
        return [_Candidate(_replaced(document, *found[-1], wanted), _with(root, path, wanted, first=False))]
    missing = path[len(found) :]
    if root is None:
        lines = _block_lines(missing, wanted, "", USUAL_STEP)
        return [_Candidate(with_lines(document.text, len(document.text), lines), _nested(path, wanted))]
    mapping = found[-1][1] if found else root
    if mapping.is_null:
        new = _null_filled(document, found, missing, wanted)
        return [_Candidate(new, _with(root, path, wanted, first=False))]
    if mapping.flow:
        new = _flow_inserted(document.text, mapping, _flow_text(missing, wanted))
        return [_Candidate(new, _with(root, path, wanted, first=False))]
    return [
        _Candidate(
            _block_inserted(document, mapping, missing, wanted, first=first), _with(root, path, wanted, first=first)
        )
        for first in (False, True)
    ]


def _replaced(document: Document, key: Node, value: Node, wanted: str) -> str:
    text = document.text
    start, end = value.start, value.end
    if value.kind in ("mapping", "sequence") and not value.flow:
        colon = _COLON.match(text, key.end)
        start = colon.end() if colon is not None else value.start
    if start == value.end or (value.kind != "scalar" and not value.flow and value.kind != "alias"):
        wanted = f" {wanted}" if text[start - 1 : start] == ":" else f": {wanted}"
    # Text in a block ends with line breaks that belong to it: one of them ends the line.
    tail = LINE_BREAK.search(text, start, end) if _ends_in_block_scalar(value) else None
    return text[:start] + wanted + (tail.group() if tail is not None else "") + text[end:]


def _ends_in_block_scalar(node: Node) -> bool:
    while node.children and not node.flow:
        node = node.children[-1]
    return node.is_block_scalar


def _null_filled(document: Document, found: list[tuple[Node, Node]], missing: Path, wanted: str) -> str:
    text, (key, null) = document.text, found[-1]
    colon = _COLON.match(text, key.end)
    start = colon.end() if colon is not None else key.end
    if _mapping_above(document, found).flow:
        gap = " " if colon is not None else ": "
        return f"{text[:start]}{gap}{{{_flow_text(missing, wanted)}}}{text[max(null.end, start) :]}"
    bare = text[:start] + text[max(null.end, start) :]
    indent = " " * (len(_indent(text, key.start)) + _step(document))
    lines = _block_lines(missing, wanted, indent, _step(document))
    return with_lines(bare, line_end(bare, start), lines)


def _flow_inserted(text: str, mapping: Node, entry: str) -> str:
    if not mapping.children:
        return text[: mapping.inner] + entry + text[mapping.inner :]
    last = mapping.children[-1]
    gap = " , " if text[last.end - 1] == ":" and last.start == last.end else ", "
    return text[: last.end] + gap + entry + text[last.end :]


def _block_inserted(document: Document, mapping: Node, missing: Path, wanted: str, *, first: bool) -> str:
    text = document.text
    key = mapping.children[0]
    lines = _block_lines(missing, wanted, _indent(text, key.start), _step(document))
    if first:
        at = line_start(text, key.start)
        at += text.startswith(BYTE_ORDER_MARK, at)
        return text[:at] + "".join(f"{line}{break_of(text)}" for line in lines) + text[at:]
    in_block = _ends_in_block_scalar(mapping)
    return with_lines(text, mapping.end if in_block else line_end(text, mapping.end), lines)


def _block_lines(path: Path, wanted: str, indent: str, step: int) -> list[str]:
    """Return the lines of nested mappings, without their line breaks."""
    heads = [f"{indent}{' ' * step * depth}{name}:" for depth, name in enumerate(path)]
    return [*heads[:-1], f"{heads[-1]} {wanted}"]


def _flow_text(path: Path, wanted: str) -> str:
    inner = f"{path[-1]}: {wanted}"
    for name in reversed(path[:-1]):
        inner = f"{name}: {{{inner}}}"
    return inner


# Deleting


def _ways_out_of_block(document: Document, _mapping: Node, key: Node, value: Node) -> list[str]:
    text = document.text
    start = line_start(text, key.start)
    if _BEFORE_KEY.fullmatch(text, start, key.start) is None:
        return []
    start += text.startswith(BYTE_ORDER_MARK, start)
    content = max(key.end, value.end)
    end = content if _ends_in_block_scalar(value) else line_end(text, content)
    return [without_lines(text, start, end), text[:start] + text[end:]]


def _ways_out_of_flow(document: Document, mapping: Node, key: Node, value: Node) -> list[str]:
    text, position = document.text, mapping.children.index(key)
    end = max(key.end, value.end)
    if position == 0 and len(mapping.children) > 2:
        return [text[: key.start] + text[mapping.children[2].start :]]
    if position == 0:
        comma = _COMMA.match(text, end)
        alone = [text[: key.start] + text[end:]]
        return alone if comma is None else [text[: key.start] + text[comma.end() :], *alone]
    before = mapping.children[position - 1].end
    gap = text[before : key.start]
    if gap.strip() == "," and LINE_BREAK.search(gap) is None:
        return [text[:before] + text[end:]]
    # What stands between the two is a comment on the one that stays, or the layout of the lines.
    comma = _COMMA.match(text, before)
    if comma is None:
        return []
    kept = text[before : comma.end() - 1] + text[comma.end() : key.start]
    return [text[:before] + kept + text[end:], text[:before] + text[end:]]


# Places in the text


def _indent(text: str, index: int) -> str:
    found = _BEFORE_KEY.match(text, line_start(text, index))
    return found.group(1) if found is not None else ""


def _step(document: Document) -> int:
    """Return by how much this file indents mappings, :data:`USUAL_STEP` where nobody can tell."""
    for key, value in document.root.entries if document.root is not None and not document.root.flow else ():
        if value.kind == "mapping" and not value.flow:
            inner = len(_indent(document.text, value.children[0].start)) - len(_indent(document.text, key.start))
            if inner > 0:
                return inner
    return USUAL_STEP
