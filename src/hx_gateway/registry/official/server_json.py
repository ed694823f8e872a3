"""The rules for a ``server.json`` document: all that is wrong with one, by its place in it."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from hx_gateway.db.models.validation import unstorable
from hx_gateway.errors import InvalidRequest
from hx_gateway.registry.official.package_rules import Sources, check_package, unresolved
from hx_gateway.registry.official.schema import SCHEMA_URL, SERVER, URL_TEMPLATE
from hx_gateway.registry.official.shapes import Issue, Severity, below, check, objects, schema_issue, shown, text
from hx_gateway.registry.official.versions import version_problem

PUBLISHER_META = "io.modelcontextprotocol.registry/publisher-provided"
OFFICIAL_META = "io.modelcontextprotocol.registry/official"
MAX_META_BYTES = 4096
MAX_DOCUMENT_BYTES = 48 * 1024
MAX_ISSUES = 100
_META_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?")
_INTERNAL_HOSTS = (".local", ".localhost", ".internal", ".lan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which rules hold that the official registry has for what everybody publishes on the internet.

    ``sources``: where packages may come from, by kind: base URLs, of images and bundles hosts; packages of a kind that
    is not there come from anywhere. ``known_registries``: packages are of kinds that there are. ``public_remotes``: a
    remote's host is one of the internet. ``publisher_meta_only``: of ``_meta`` only the publisher's own part is kept.
    What is off is warned of, if it is worth it. That whoever publishes owns the packages is nowhere looked at.
    """

    sources: Sources = field(default_factory=dict)
    known_registries: bool = True
    public_remotes: bool = False
    publisher_meta_only: bool = True


class InvalidServer(InvalidRequest):
    """A ``server.json`` with errors: all of them are in ``issues``, the first one is ``param``."""

    code = "invalid_server_json"

    def __init__(self, issues: Sequence[Issue]) -> None:
        first = issues[0]
        more = f" ({len(issues) - 1} more)" if len(issues) > 1 else ""
        super().__init__(f"{first.path or 'server.json'} {first.message}{more}.", param=first.path or None)
        self.issues = tuple(issues)
        self.details = tuple({"message": issue.message, "location": f"body.{issue.path}"} for issue in issues)


def validate(document: Any, rules: Rules | None = None) -> list[Issue]:
    """Return what is wrong with a document, errors first, at most ``MAX_ISSUES``; nothing is asked of anybody."""
    if not isinstance(document, dict):
        return [schema_issue("", "must be an object", "#/definitions/ServerDetail")]
    reason = unstorable(document)
    if reason is not None:
        return [Issue(type="json", path="", message=reason, severity="error", reference="storable-json")]
    order: Mapping[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    return sorted(_issues(document, rules or Rules()), key=lambda issue: order[issue.severity])[:MAX_ISSUES]


def errors_of(issues: Sequence[Issue]) -> list[Issue]:
    """Return those that keep a document from being published."""
    return [issue for issue in issues if issue.severity == "error"]


def kept(document: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return what is kept of a document that has no errors: all but those parts of ``_meta`` that are not its own."""
    meta = document.get("_meta") or {}
    own = {name: value for name, value in meta.items() if name == PUBLISHER_META or not rules.publisher_meta_only}
    own.pop(OFFICIAL_META, None)
    rest = {name: value for name, value in document.items() if name != "_meta"}
    return {**rest, "_meta": own} if own else rest


def _issues(document: Mapping[str, Any], rules: Rules) -> Iterator[Issue]:
    size = len(json.dumps(document, ensure_ascii=False).encode())
    if size > MAX_DOCUMENT_BYTES:
        yield _semantic("", f"must have at most {MAX_DOCUMENT_BYTES // 1024} KiB, not {size} bytes", "document-size")
    yield from check(SERVER, document)
    yield from _head(document)
    yield from _places(document)
    yield from _meta(document.get("_meta"), rules)
    packages, remotes = objects(document, "packages"), objects(document, "remotes")
    for index, package in packages:
        yield from check_package(
            package, f"packages[{index}]", known_registries=rules.known_registries, sources=rules.sources
        )
    seen: set[str] = set()
    for index, remote in remotes:
        yield from _remote(remote, f"remotes[{index}]", rules, seen)
    if not packages and not remotes:
        message = "has neither packages nor remotes: no client can install or reach it"
        yield _linter("", message, "packages-or-remotes")


def _head(document: Mapping[str, Any]) -> Iterator[Issue]:
    schema, name, version = (text(document, field) for field in ("$schema", "name", "version"))
    if "$schema" not in document:
        yield _linter("$schema", f"is missing: say {SCHEMA_URL}", "schema-field")
    elif schema and schema != SCHEMA_URL:
        yield _linter("$schema", f"is not the version that is checked here, which is {SCHEMA_URL}", "schema-version")
    if "." not in name.partition("/")[0] and "/" in name:
        yield _linter("name", "has a namespace that is no reversed domain, as com.example is", "reverse-dns")
    if isinstance(document.get("version"), str):
        problem = version_problem(version)
        if problem is not None:
            yield _semantic("version", problem, "exact-version")


def _places(document: Mapping[str, Any]) -> Iterator[Issue]:
    if text(document, "websiteUrl") and not _is_url(text(document, "websiteUrl"), "https"):
        yield _semantic("websiteUrl", "must be an absolute https URL", "website-url")
    if document.get("websiteUrl") == "":
        yield _semantic("websiteUrl", "must be an absolute https URL, or be left out", "website-url")
    for index, icon in objects(document, "icons"):
        if isinstance(icon.get("src"), str) and not _is_url(icon["src"], "https"):
            yield _semantic(f"icons[{index}].src", "must be an absolute https URL", "icon-source")
    repository = document.get("repository")
    if not isinstance(repository, dict):
        return
    url, source, subfolder = (text(repository, field) for field in ("url", "source", "subfolder"))
    if url and not _is_url(url, "https", "http"):
        yield _semantic("repository.url", "must be an absolute URL", "repository-url")
    elif source in ("github", "gitlab") and url and not _is_repository(url, f"{source}.com"):
        message = f"must be a repository of {source}.com, as https://{source}.com/owner/name"
        yield _semantic("repository.url", message, "repository-url")
    if subfolder and not _is_clean_path(subfolder):
        message = "must be a relative path without empty, '.' or '..' segments"
        yield _semantic("repository.subfolder", message, "repository-subfolder")


def _meta(meta: Any, rules: Rules) -> Iterator[Issue]:
    if not isinstance(meta, dict):
        return
    for name in meta:
        path = below("_meta", name)
        if _META_KEY.fullmatch(name) is None:
            yield _semantic(path, "must be named like a reversed domain, as com.example/build", "meta-key")
        elif name == OFFICIAL_META or (rules.publisher_meta_only and name != PUBLISHER_META):
            yield _linter(path, f"is not kept: the publisher's own part is {PUBLISHER_META}", "meta-publisher-only")
    own = meta.get(PUBLISHER_META)
    path = below("_meta", PUBLISHER_META)
    if own is not None and not isinstance(own, dict):
        yield schema_issue(path, "must be an object", "type")
    size = len(json.dumps(own, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_META_BYTES:
        yield _semantic(path, f"must have at most {MAX_META_BYTES} bytes of JSON, not {size}", "meta-size")


def _remote(remote: Mapping[str, Any], path: str, rules: Rules, seen: set[str]) -> Iterator[Issue]:
    url = text(remote, "url")
    if URL_TEMPLATE.fullmatch(url) is None:
        return
    if url in seen:
        yield _linter(f"{path}.url", "is there twice", "remote-twice")
    seen.add(url)
    variables = remote.get("variables")
    known = set(variables) if isinstance(variables, dict) else set()
    for missing in unresolved(url, known):
        message = f"has the variable {shown(missing)}, which is not among the remote's variables"
        yield _semantic(f"{path}.url", message, "url-variables")
    if "{" in url:
        return
    if not _is_url(url, "https", "http"):
        yield _semantic(f"{path}.url", "must be an absolute URL", "remote-url")
    elif "@" in urlsplit(url).netloc:
        yield _semantic(f"{path}.url", "must not hold a user or a password", "remote-credentials")
    elif not _is_public(url):
        message = "is a host that is not on the internet: only who is in the same network reaches it"
        severity: Severity = "error" if rules.public_remotes else "warning"
        yield Issue(
            type="semantic", path=f"{path}.url", message=message, severity=severity, reference="remote-is-public"
        )


def _is_url(url: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and not re.search(r"\s", url) and parts.port != 0
    except ValueError:
        return False


def _is_repository(url: str, host: str) -> bool:
    parts = urlsplit(url)
    inside = [part for part in parts.path.split("/") if part]
    return (parts.hostname or "").removeprefix("www.") == host and len(inside) >= 2


def _is_clean_path(path: str) -> bool:
    segments = path.split("/")
    return "\\" not in path and not re.search(r"\s", path) and not {"", ".", ".."} & set(segments)


def _is_public(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(_INTERNAL_HOSTS) or not re.search(r"[.:]", host):
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True


def _semantic(path: str, message: str, reference: str) -> Issue:
    return Issue(type="semantic", path=path, message=message, severity="error", reference=reference)


def _linter(path: str, message: str, reference: str) -> Issue:
    return Issue(type="linter", path=path, message=message, severity="warning", reference=reference)
