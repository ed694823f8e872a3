"""Random YAML texts in every layout that people write: comments, quotes, blank lines, block and flow."""

from __future__ import annotations

import yaml  # type: ignore[import-untyped]
from hypothesis import assume
from hypothesis import strategies as st

NAMES = ("general_settings", "litellm_settings", "database_url", "cache", "cache_params", "type", "other", "a b", "é")
PLAIN = (
    "1",
    "true",
    "yes",
    "null",
    "~",
    "os.environ/DATABASE_URL",
    "redis",
    "plain words",
    "2026-12-01",
    "0x1F",
    "1e3",
    ".nan",
)
QUOTED = ("'it''s'", '"a\\u00e9\\n"', "'# no comment'", '"{}"', "''", '"two\n\n    lines"')
COMMENTS = ("", "", "  # why", " #", "   # key: value, not read", "  ")
BETWEEN = ("", "", "", "\n", "# a comment of its own\n", "\n# section\n\n", "      # far in\n")


@st.composite
def scalars(draw: st.DrawFn) -> str:
    """A scalar that may stand in block or flow."""
    return str(draw(st.sampled_from(PLAIN + QUOTED)))


@st.composite
def flows(draw: st.DrawFn, depth: int) -> str:
    """A flow collection; the layouts of its commas and line breaks differ."""
    comma = draw(st.sampled_from((", ", ",", " , ", ",\n      ", ", # c\n      ")))
    end = draw(st.sampled_from(("", "", " ", ",", "\n      ")))
    count = draw(st.integers(0, 3))
    if end == "," and not count:
        end = ""
    below = st.one_of(scalars(), flows(depth - 1)) if depth else scalars()
    if draw(st.booleans()):
        return f"[{comma.join(draw(below) for _ in range(count))}{end}]"
    names = draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count, unique=True))
    entries = [
        draw(st.sampled_from((f"{name}: {draw(below)}", f"{name}: {draw(below)}", f'"{name}": {draw(below)}')))
        for name in names
    ]
    return f"{{{draw(st.sampled_from(('', ' ')))}{comma.join(entries)}{end}}}"


@st.composite
def block_texts(draw: st.DrawFn, indent: str) -> str:
    """A block scalar, from its header to the end of its last line."""
    header = draw(st.sampled_from(("|", ">", "|-", ">-", "|+", "|  # c")))
    lines = draw(
        st.lists(st.sampled_from(("text", "", "key: value", "# no comment", "  deeper")), min_size=0, max_size=3)
    )
    shown = [f"{indent}  {line}" if line else "" for line in ["first", *lines]]
    return f"{header}\n" + "\n".join(shown)


@st.composite
def mappings(draw: st.DrawFn, indent: str = "", depth: int = 2) -> str:
    """The lines of a block mapping, each with its line break."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    lines = []
    for name in names:
        key = draw(st.sampled_from((name, name, name, f"'{name}'", f'"{name}" ')))
        between = draw(st.sampled_from(BETWEEN))
        kind = draw(st.sampled_from(("scalar", "scalar", "empty", "flow", "text", "map", "list")))
        comment = draw(st.sampled_from(COMMENTS))
        if kind == "map" and depth:
            step = " " * draw(st.integers(1, 4))
            value = f"{comment}\n{draw(mappings(indent + step, depth - 1))}"
        elif kind == "list" and depth:
            dash = indent + " " * draw(st.integers(0, 3))
            items = draw(st.lists(scalars(), min_size=1, max_size=3))
            value = f"{comment}\n" + "".join(f"{dash}- {item}{draw(st.sampled_from(COMMENTS))}\n" for item in items)
        elif kind == "flow":
            value = f" {draw(flows(1))}{comment}\n"
        elif kind == "text":
            value = f" {draw(block_texts(indent))}\n"
        elif kind == "empty":
            value = f"{comment}\n"
        else:
            value = f"{draw(st.sampled_from((' ', '   ')))}{draw(scalars())}{comment}\n"
        lines.append(f"{between}{indent}{key}:{value}")
    return "".join(lines)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A whole text: with a byte order mark, a marker, other line breaks or none at the end, now and then."""
    body = draw(
        st.one_of(
            mappings(),
            mappings(),
            mappings(draw(st.sampled_from(("", "  ")))),
            flows(2).filter(lambda text: text.startswith("{")).map("{}\n".format),
        )
    )
    text = (
        draw(st.sampled_from(("", "", "# head\n\n", "---\n")))
        + body
        + draw(st.sampled_from(("", "", "\n# the end\n", "\n\n", "...\n")))
    )
    if draw(st.booleans()):
        text = text.rstrip("\n")
    if draw(st.integers(0, 3)) == 0:
        text = text.replace("\n", "\r\n")
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        assume(False)
    return draw(st.sampled_from(("", "", "", "\ufeff"))) + text
