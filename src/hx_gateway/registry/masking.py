"""Values that nobody stores: masked when they come in, and named where they go out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hx_gateway.access.audit import MASK

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|authorization|(?:^|[-_])auth$|(?:^|[-_])pat$|api[-_ ]?key|"
    r"access[-_]?key|private[-_ ]?key|(?:^|[-_])key$|signature",
    re.IGNORECASE,
)
# How keys of well-known issuers begin, whatever they are called where they stand.
_SECRET_VALUE = re.compile(
    r"(?:sk-|pk-|rk-|ghp_|gho_|ghu_|ghs_|github_pat_|glpat-|xox[abeprs]-|AKIA|AIza|hf_|npm_|eyJ)[A-Za-z0-9_.-]{12,}"
)
# ``${NAME}``, ``${env:NAME}``, ``${input:name}``, and the same with a default of no interest here.
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_.:-]*\}|\$[A-Za-z_][A-Za-z0-9_]*")
_SCHEME = re.compile(r"(?i)(bearer|basic|token)\s+(\S.*)", re.DOTALL)
_PLAIN_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent", "mcp-protocol-version"})
_FLAG = re.compile(r"(-{1,2}[A-Za-z][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_QUERY = re.compile(r"([?&])([^=&#]+)=([^&#]*)")


def masked_value(value: str, *, is_header: str | None = None) -> str:
    """Return what is kept of the value of a variable, or of the header of that name: references, and schemes."""
    if is_reference(value) or (is_header is not None and is_header.lower() in _PLAIN_HEADERS):
        return value
    scheme = _SCHEME.fullmatch(value) if is_header is not None else None
    if scheme is None:
        return MASK
    return f"{scheme[1]} {scheme[2] if is_reference(scheme[2]) else MASK}"


def is_reference(value: str) -> bool:
    """Return whether a value only says where another one is found; one that is masked says nothing at all."""
    return value == MASK or _REFERENCE.fullmatch(value) is not None


def masked_arguments(arguments: Iterable[str]) -> list[str]:
    """Return a command's arguments without the values of those that are named like secrets, or look like keys."""
    kept: list[str] = []
    previous = ""
    for argument in arguments:
        flag = _FLAG.fullmatch(argument) or _ASSIGNMENT.fullmatch(argument)
        follows = previous.startswith("-") and "=" not in previous and _SECRET_NAME.search(previous) is not None
        if flag is not None and _SECRET_NAME.search(flag[1]):
            kept.append(f"{flag[1]}={flag[2] if is_reference(flag[2]) else MASK}")
        elif follows and not argument.startswith("-") and not is_reference(argument):
            kept.append(MASK)
        else:
            kept.append(_SECRET_VALUE.sub(MASK, masked_url(argument) if "://" in argument else argument))
        previous = argument
    return kept


def masked_url(url: str) -> str:
    """Return a URL without user and password, and without the values of parameters that are named like secrets."""
    bare = re.sub(r"(://)[^/?#]*@", r"\1", url)

    def mask(found: re.Match[str]) -> str:
        secret = _SECRET_NAME.search(found[2]) is not None and not is_reference(found[3])
        return f"{found[1]}{found[2]}={MASK if secret else found[3]}"

    return _SECRET_VALUE.sub(MASK, _QUERY.sub(mask, bare))


def templated_url(url: str) -> tuple[str, list[str]]:
    """Return a URL with ``{variables}`` for what :func:`masked_url` masks of its parameters, and their names."""
    names: list[str] = []

    def name(found: re.Match[str]) -> str:
        if found[3] != MASK:
            return found[0]
        variable = re.sub(r"[^A-Za-z0-9_]+", "_", found[2]).strip("_") or "value"
        names.append(variable if not variable[0].isdigit() else f"_{variable}")
        return f"{found[1]}{found[2]}={{{names[-1]}}}"

    return _QUERY.sub(name, masked_url(url)), names


def placeholders(values: Mapping[str, str]) -> dict[str, str]:
    """Return values with the name of a variable in the place of what is not known any more."""
    return {name: placed(value, name) for name, value in values.items()}


def placed(value: str, name: str) -> str:
    """Return a value with a reference to the variable ``name`` where it is masked."""
    variable = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_").upper() or "VALUE"
    if variable[0].isdigit():
        variable = f"_{variable}"
    return value.replace(MASK, f"${{{variable}}}")
