"""A YAML text as a tree of nodes that know where in the text they stand."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from hx_gateway.wiring.text_lines import line_of

BYTE_ORDER_MARK = "\ufeff"
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
MERGE_KEY = "<<"
_COLON = re.compile(r"\s*:")
_DASH = re.compile(r"(?:\s|#[^\r\n]*)*-")

Kind = Literal["scalar", "mapping", "sequence", "alias"]
Shape = tuple[Any, ...]


class YamlProblem(Exception):
    """A text that is not YAML, or none that is changed here. ``line`` counts from 1; the words never repeat a value."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(slots=True)
class Node:
    """One value: ``text[start:end]``. A block collection ends with its last value, not with what follows that.

    ``inner`` is where the content of a flow collection begins, ``text`` a scalar's value or an alias's name.
    """

    kind: Kind
    start: int
    end: int
    inner: int = 0
    text: str = ""
    style: str | None = None
    flow: bool = False
    anchor: str | None = None
    tag: str | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def entries(self) -> list[tuple[Node, Node]]:
        """The keys of a mapping with their values."""
        return list(zip(self.children[::2], self.children[1::2], strict=True))

    @property
    def is_null(self) -> bool:
        """Whether this is nothing, written out or not."""
        return self.kind == "scalar" and self.tag is None and self.style is None and self.text in NULLS

    @property
    def is_block_scalar(self) -> bool:
        """Whether this is text below a ``|`` or ``>``: it ends with the line breaks behind it."""
        return self.style in ("|", ">")

    def entry(self, key: str) -> tuple[Node, Node] | None:
        """Return the key and the value of ``key``."""
        return next(((name, value) for name, value in self.entries if name.kind == "scalar" and name.text == key), None)

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def shape(self) -> Shape:
        """Return what the node says, apart from where and in which layout: equal shapes mean the same."""
        return (
            self.kind,
            self.tag,
            self.anchor,
            self.style,
            self.text,
            tuple(child.shape() for child in self.children),
        )


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its tree. ``root`` is ``None`` where there are comments only; ``aliases`` are names referred to."""

    text: str
    root: Node | None
    anchors: dict[str, Node]
    aliases: frozenset[str]

    def line_of(self, index: int) -> int:
        """Return the line of a place in the text, from 1."""
        return line_of(self.text, index)


@lru_cache(maxsize=8)
def parse(text: str) -> Document:
    """Return the tree of ``text``, which holds one document; nobody changes it. Raises :class:`YamlProblem`.

    The last ones are kept: what one change makes is where the next one begins.
    """
    try:
        events = list(YAML(typ="rt", pure=True).parse(text.replace("\r\n", "\n")))
        return _document(text, events)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # What stands in quotes may be a value.
        problem = (error.problem or "not YAML").splitlines()[0]
        tab = "a tab where YAML allows spaces only" if r"'\t'" in problem else None
        problem = tab or re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "…", problem)
        raise YamlProblem(mark.line + 1 if mark is not None else 1, f"not valid YAML: {problem}") from None
    except RecursionError:
        raise YamlProblem(1, "nested too deeply") from None
    except (YAMLError, ValueError) as error:
        line = line_of(text, getattr(error, "position", 0))
        raise YamlProblem(line, "not valid YAML: a character that it does not allow") from None


def _document(text: str, events: list[Any]) -> Document:
    starts = [event for event in events if type(event).__name__ == "DocumentStartEvent"]
    if len(starts) > 1:
        raise YamlProblem(starts[1].start_mark.line + 1, "a second document begins here; one is all that is read")
    inner = [event for event in events if not type(event).__name__.startswith(("Stream", "Document"))]
    builder = _Builder(inner, text)
    root = builder.node() if builder.left else None
    # A document without content is an empty scalar, wherever it would stand.
    if root is not None and root.is_null and not root.text and root.anchor is None:
        root = None
    return Document(text, root, builder.anchors, frozenset(builder.aliases))


class _Places:
    """Where a place of a text with bare line feeds, which is what the parser places well, is in the text itself."""

    def __init__(self, text: str) -> None:
        found = re.finditer("\r\n", text)
        self._breaks = [match.start() - before for before, match in enumerate(found)]

    def __call__(self, mark: Any) -> int:
        return int(mark.index) + bisect_left(self._breaks, mark.index)


class _Builder:
    """Makes nodes of the parser's events, and refuses keys that are there twice."""

    def __init__(self, events: list[Any], text: str) -> None:
        self.left = events[::-1]
        self._text = text
        self._place = _Places(text)
        self.anchors: dict[str, Node] = {}
        self.aliases: set[str] = set()

    def node(self) -> Node:
        event = self.left.pop()
        name = type(event).__name__
        start, end, line = self._place(event.start_mark), self._place(event.end_mark), event.start_mark.line + 1
        anchor = event.anchor
        if name == "AliasEvent":
            if anchor not in self.anchors:
                raise YamlProblem(line, "an alias of something that is not there")
            self.aliases.add(anchor)
            return Node("alias", start, end, text=anchor)
        tag = str(event.tag) if event.tag is not None else None
        if name == "ScalarEvent":
            made = Node("scalar", start, end, text=event.value, style=event.style or None, anchor=anchor, tag=tag)
        else:
            kind: Kind = "mapping" if name == "MappingStartEvent" else "sequence"
            made = Node(kind, start, end, inner=end, flow=bool(event.flow_style), anchor=anchor, tag=tag)
        if anchor is not None:
            self.anchors[anchor] = made
        if made.kind != "scalar":
            self._fill(made)
        return made

    def _fill(self, made: Node) -> None:
        seen: set[tuple[str, bool]] = set()
        while not type(self.left[-1]).__name__.endswith("EndEvent"):
            line = self.left[-1].start_mark.line + 1
            child = self.node()
            if made.kind == "mapping" and len(made.children) % 2 == 0 and child.kind == "scalar":
                if (child.text, child.style is None) in seen and child.text != MERGE_KEY:
                    raise YamlProblem(line, f"the key {child.text!r} is there twice")
                seen.add((child.text, child.style is None))
            if child.start == child.end:
                child.start = child.end = self._behind_indicator(made)
            made.children.append(child)
        end = self._place(self.left.pop().end_mark)
        made.end = end if made.flow or not made.children else made.children[-1].end

    def _behind_indicator(self, above: Node) -> int:
        """Return where a value that is left out would stand: the parser says where the next one does."""
        before = above.children[-1].end if above.children else above.start
        found = (_COLON if above.kind == "mapping" else _DASH).match(self._text, before)
        return found.end() if found is not None else before
