"""The events of one trace as a tree of spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Spans below one another in one tree. Readers and writers of JSON, ours among them, give up on deep nesting.
MAX_DEPTH = 100

Event = Mapping[str, Any]


@dataclass(eq=False, slots=True)
class _Span:
    order: int
    span_id: str
    parent_span_id: str | None
    events: list[Event] = field(default_factory=list)
    children: list[_Span] = field(default_factory=list)
    parent: _Span | None = None
    parent_missing: bool = False
    cycle: bool = False
    duplicate: bool = False
    depth_cut: bool = False


def build_tree(events: Iterable[Event], *, truncated: bool = False) -> dict[str, Any]:
    """Return the spans of ``events``, which belong to one trace, each with its events and the spans below it.

    An event is read for ``timestamp``, ``event_id``, ``span_id`` and ``parent_span_id``. The result has ``roots``
    (spans without a parent), ``events`` (those without a span), ``span_count``, ``event_count`` and ``truncated``,
    which is passed through. A span has ``span_id``, ``parent_span_id``, ``events``, ``children``, and four flags:

    ``parent_missing``: its parent is not among the events, so it is a root. ``cycle``: it is its own ancestor; the
    cycle's earliest span becomes a root. ``duplicate``: its id was used below several parents; each use is a span of
    its own, and children go to the earliest. ``depth_cut``: it stands :data:`MAX_DEPTH` spans below a root and is shown
    as a root itself.

    Every event is found exactly once. All lists are from the oldest on, whatever the order of ``events``.
    """
    ordered = sorted(events, key=lambda event: (event["timestamp"], str(event["event_id"])))
    loose = [event for event in ordered if not event["span_id"]]
    spans = _collect(event for event in ordered if event["span_id"])
    _find_parents(spans)
    _break_cycles(spans)
    _attach(spans)
    _cut_depth(spans)
    return {
        "roots": _as_dicts(spans),
        "events": loose,
        "span_count": len(spans),
        "event_count": len(ordered),
        "truncated": truncated,
    }


def _collect(events: Iterable[Event]) -> list[_Span]:
    """Gather the events of each span; ids that were used below several parents give several spans."""
    spans: list[_Span] = []
    uses: dict[str, dict[str | None, _Span]] = {}
    for event in events:
        span_id, parent_id = event["span_id"], event["parent_span_id"] or None
        known = uses.setdefault(span_id, {})
        span = known.get(parent_id)
        if span is None and parent_id is None and known:
            # An event that names no parent belongs to the span as it is known already.
            span = next(iter(known.values()))
        if span is None and None in known:
            span = known.pop(None)
            span.parent_span_id = parent_id
            known[parent_id] = span
        if span is None:
            span = known[parent_id] = _Span(len(spans), span_id, parent_id)
            spans.append(span)
        span.events.append(event)
    for known in uses.values():
        for span in known.values():
            span.duplicate = len(known) > 1
    return spans


def _find_parents(spans: list[_Span]) -> None:
    first: dict[str, _Span] = {}
    for span in spans:
        first.setdefault(span.span_id, span)
    for span in spans:
        if span.parent_span_id is not None:
            span.parent = first.get(span.parent_span_id)
            span.parent_missing = span.parent is None


def _break_cycles(spans: list[_Span]) -> None:
    seen: dict[_Span, int] = {}
    for start in spans:
        path: list[_Span] = []
        span: _Span | None = start
        while span is not None and span not in seen:
            seen[span] = start.order
            path.append(span)
            span = span.parent
        if span is not None and path and seen[span] == start.order:
            earliest = min(path[path.index(span) :], key=lambda member: member.order)
            earliest.parent = None
            earliest.cycle = True


def _attach(spans: list[_Span]) -> None:
    for span in spans:
        if span.parent is not None:
            span.parent.children.append(span)


def _cut_depth(spans: list[_Span]) -> None:
    level = [span for span in spans if span.parent is None]
    depth = 0
    while level:
        below = [child for span in level for child in span.children]
        depth += 1
        if depth == MAX_DEPTH:
            depth = 0
            for span in level:
                span.children = []
            for child in below:
                child.parent = None
                child.depth_cut = True
        level = below


def _as_dicts(spans: list[_Span]) -> list[dict[str, Any]]:
    """Return the roots. Children are put into dictionaries that exist: nothing here recurses."""
    shown = [
        {
            "span_id": span.span_id,
            "parent_span_id": span.parent_span_id,
            "parent_missing": span.parent_missing,
            "cycle": span.cycle,
            "duplicate": span.duplicate,
            "depth_cut": span.depth_cut,
            "events": span.events,
            "children": [],
        }
        for span in spans
    ]
    roots: list[dict[str, Any]] = []
    for span, dictionary in zip(spans, shown, strict=True):
        siblings: list[Any] = roots if span.parent is None else shown[span.parent.order]["children"]  # type: ignore[assignment]
        siblings.append(dictionary)
    return roots
