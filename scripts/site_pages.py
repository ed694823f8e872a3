"""A hook of MkDocs: what pages link to outside of ``docs`` is on the site too, with links that hold in both places."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Where the site has what the repository has beside ``docs``.
OUTSIDE = "repository/"
_LINK = re.compile(r"(?<=\]\()[^)#\s:]+")
# What a browser fetches by itself; a canonical address is only said.
_FOREIGN = re.compile(
    r"<(?:script|img|iframe|link(?![^>]*\brel=[\"']?canonical))\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
)


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of a folder that the navigation does not name in the place of ``folder/*``, an index first."""
    sections = config.nav or []
    named = {path for section in sections for path in _paths(section)}
    config.nav = [
        {title: [page for path in paths for page in _expanded(path, named)]}
        for section in sections
        for title, paths in section.items()
    ]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what the navigation and pages name outside of ``docs``, and what is linked to from there."""
    waiting = [_in_repository(path) for section in config.nav or [] for path in _paths(section)]
    for page in files.documentation_pages():
        waiting += _targets(page)
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(_on_site(path)) is None and (ROOT / path).is_file():
            added = File.generated(config, _on_site(path), abs_src_path=str(ROOT / path))
            files.append(added)
            waiting += _targets(added) if added.is_documentation_page() else []


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that hold in the repository into those that hold on the site; leave broken ones to be found."""
    here = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        path = _target(here, found[0])
        return posixpath.relpath(_on_site(path), posixpath.dirname(here)) if (ROOT / path).is_file() else found[0]

    return _LINK.sub(link, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Raise ``PluginError`` for a page that would have its readers' browsers ask another host."""
    if found := _FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")


def _paths(section: dict[str, list[str]]) -> Iterator[str]:
    for paths in section.values():
        yield from paths


def _expanded(path: str, named: set[str]) -> list[str]:
    folder, star, _ = path.partition("*")
    pages = sorted((ROOT / "docs" / folder).glob("*.md"), key=lambda page: (page.stem != "index", page.name))
    return [f"{folder}{page.name}" for page in pages if f"{folder}{page.name}" not in named] if star else [path]


def _targets(page: File) -> list[str]:
    return [_target(page.src_uri, link) for link in _LINK.findall(page.content_string)]


def _target(here: str, link: str) -> str:
    """Return what a link of the page ``here`` leads to, as a path of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(_in_repository(here)), link))


def _in_repository(path: str) -> str:
    return path.removeprefix(OUTSIDE) if path.startswith(OUTSIDE) else f"docs/{path}"


def _on_site(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path
