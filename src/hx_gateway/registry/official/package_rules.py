"""The rules for the packages of a server: identifiers, versions, arguments, and what a URL's variables stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from hx_gateway.registry.official.schema import STDIO
from hx_gateway.registry.official.shapes import Issue, Severity, objects, shown, text
from hx_gateway.registry.official.versions import is_range

OCI, MCPB = "oci", "mcpb"
Sources = Mapping[str, Sequence[str]]
KINDS = ("npm", "pypi", "nuget", "cargo", "maven", OCI, MCPB)
_VERSIONED = frozenset({"npm", "pypi", "nuget"})
_IMAGE = re.compile(
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[0-9]+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[a-f0-9]{64})?"
)
_HOST = re.compile(r"\.?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_NOT_IN_A_FLAG = re.compile(r"[<>$\s]")


def sources_of(words: Sequence[str]) -> Sources:
    """Return where packages may come from, of ``kind=place`` each: a base URL, for images and bundles a host.

    A host that begins with a dot stands for all below it. Raises ``ValueError``, which says what is wrong with which.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        kind, _, place = word.partition("=")
        if kind not in KINDS:
            raise ValueError(f"{word!r} does not begin with a kind of packages and '=', as npm=https://example.com")
        is_host = kind in (OCI, MCPB)
        if (_HOST.fullmatch(place) is None) if is_host else not _is_base_url(place):
            needed = "a host, as images.example.com" if is_host else "an http(s) URL, as https://packages.example.com"
            raise ValueError(f"{word!r}: packages of {kind} come from {needed}")
        found.setdefault(kind, []).append(place if is_host else place.rstrip("/"))
    return found


def unresolved(template: str, known: set[str]) -> list[str]:
    """Return the ``{variables}`` of a text that are not ``known``, each once, in their order."""
    return [name for name in dict.fromkeys(_VARIABLE.findall(template)) if name not in known]


def check_package(
    package: Mapping[str, Any], path: str, *, known_registries: bool, sources: Sources
) -> Iterator[Issue]:
    """Yield what is wrong with a package beyond its form."""
    kind, identifier = text(package, "registryType"), text(package, "identifier")
    if kind and kind not in KINDS:
        message = f"must be one of {', '.join(KINDS)}, not {shown(kind)}"
        severity: Severity = "error" if known_registries else "warning"
        yield _issue(f"{path}.registryType", message, "registry-type", severity)
    if re.search(r"\s", identifier):
        yield _issue(f"{path}.identifier", "must not hold spaces", "package-identifier")
    elif kind == OCI:
        yield from _image(package, identifier, path)
    elif kind == MCPB:
        yield from _bundle(package, identifier, path)
    yield from _version(package, kind, path)
    if kind in sources:
        yield from _source(package, sources[kind], path)
    yield from _transport(package, path)
    yield from _arguments(package, path)


def _version(package: Mapping[str, Any], kind: str, path: str) -> Iterator[Issue]:
    version, place = text(package, "version"), f"{path}.version"
    if kind == OCI:
        if "version" in package:
            yield _issue(place, "must be left out: the image's tag or digest says it", "oci-version")
    elif "version" not in package:
        if kind in _VERSIONED:
            yield _issue(place, f"is required for packages of {kind}", "package-version")
    elif version.lower() == "latest" or is_range(version):
        yield _issue(place, f"must be one version, not {shown(version)}", "package-version")


def _image(package: Mapping[str, Any], identifier: str, path: str) -> Iterator[Issue]:
    if _IMAGE.fullmatch(identifier) is None:
        message = "must be the reference of an image, as images.example.com/acme/mail:1.0.0"
        yield _issue(f"{path}.identifier", message, "oci-reference")
    elif "@" not in identifier and (":" not in identifier.rpartition("/")[2] or identifier.endswith(":latest")):
        message = "names no version: give it a tag other than latest, or a digest"
        yield _issue(f"{path}.identifier", message, "oci-reference", "warning")
    if "registryBaseUrl" in package:
        message = "must be left out: the reference says where the image is"
        yield _issue(f"{path}.registryBaseUrl", message, "oci-base-url")


def _bundle(package: Mapping[str, Any], identifier: str, path: str) -> Iterator[Issue]:
    parts = _split(identifier)
    if parts is None or parts[0] != "https":
        yield _issue(f"{path}.identifier", "must be the https URL that the bundle is got from", "mcpb-identifier")
    if "fileSha256" not in package:
        yield _issue(f"{path}.fileSha256", "is required for packages of mcpb", "mcpb-hash")


def _source(package: Mapping[str, Any], allowed: Sequence[str], path: str) -> Iterator[Issue]:
    kind, identifier, given = (text(package, name) for name in ("registryType", "identifier", "registryBaseUrl"))
    among = f"one of {', '.join(allowed)}"
    if kind == OCI:
        # One that names no host comes from wherever its client looks first.
        if not _is_at(identifier.partition("/")[0], allowed):
            yield _issue(f"{path}.identifier", f"must name an image of {among}", "base-url")
    elif kind == MCPB:
        parts = _split(identifier)
        if parts is not None and not _is_at(parts[1], allowed):
            yield _issue(f"{path}.identifier", f"must be a release of {among}", "base-url")
    elif given and given.rstrip("/") not in allowed:
        yield _issue(f"{path}.registryBaseUrl", f"must be {among}", "base-url")


def _transport(package: Mapping[str, Any], path: str) -> Iterator[Issue]:
    transport = package.get("transport")
    if not isinstance(transport, dict):
        return
    url, place = text(transport, "url"), f"{path}.transport.url"
    if transport.get("type") == STDIO:
        if url:
            yield _issue(place, "must be left out for stdio", "stdio-url")
        return
    for missing in unresolved(url, set(_names(package))):
        message = f"has the variable {shown(missing)}: none of the package's arguments and environment is named so"
        yield _issue(place, message, "url-variables")


def _names(package: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a URL's variables may stand for."""
    for _, variable in objects(package, "environmentVariables"):
        yield text(variable, "name")
    for field in ("runtimeArguments", "packageArguments"):
        for _, argument in objects(package, field):
            yield from (text(argument, "name"), text(argument, "name").lstrip("-"), text(argument, "valueHint"))


def _arguments(package: Mapping[str, Any], path: str) -> Iterator[Issue]:
    if package.get("runtimeArguments") and not text(package, "runtimeHint"):
        message = "is what runtimeArguments are for: name it"
        yield _issue(f"{path}.runtimeHint", message, "runtime-hint", "warning")
    for field in ("runtimeArguments", "packageArguments"):
        for index, argument in objects(package, field):
            yield from _argument(argument, f"{path}.{field}[{index}]")
    for index, variable in objects(package, "environmentVariables"):
        if variable.get("isSecret") is True and (variable.get("value") or variable.get("default")):
            message = "is a secret whose value everybody reads here"
            yield _issue(f"{path}.environmentVariables[{index}]", message, "secret-value", "warning")


def _argument(argument: Mapping[str, Any], path: str) -> Iterator[Issue]:
    if argument.get("type") == "positional":
        if "value" not in argument and "valueHint" not in argument:
            yield _issue(path, "must have a value or a valueHint", "#/definitions/PositionalArgument")
        return
    name = text(argument, "name")
    if _NOT_IN_A_FLAG.search(name):
        yield _issue(f"{path}.name", "must be the flag alone: no spaces, nor any of < > $", "argument-name")
    for field in ("value", "default"):
        if name and text(argument, field).startswith(name):
            message = "must not begin with the flag: that goes before it by itself"
            yield _issue(f"{path}.{field}", message, "argument-value")


def _is_at(host: str, hosts: Sequence[str]) -> bool:
    return any(host.endswith(known) if known.startswith(".") else host == known for known in hosts)


def _is_base_url(url: str) -> bool:
    parts = _split(url)
    return parts is not None and parts[0] in ("http", "https") and "@" not in url and not re.search(r"\s|[?#]", url)


def _split(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
        return (parts.scheme, parts.hostname) if parts.hostname else None
    except ValueError:
        return None


def _issue(path: str, message: str, reference: str, severity: Severity = "error") -> Issue:
    return Issue(type="semantic", path=path, message=message, severity=severity, reference=reference)
