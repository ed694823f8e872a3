"""The command that runs a package of a ``server.json``: a list of arguments, never a line for a shell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hx_gateway.access.audit import MASK
from hx_gateway.registry.masking import placed
from hx_gateway.registry.official.shapes import objects, text

_RUNTIMES: Mapping[str, str] = {"npm": "npx", "pypi": "uvx", "oci": "docker", "nuget": "dnx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is run, and with which environment; values that somebody has to give are references to variables."""

    command: str
    arguments: list[str]
    environment: dict[str, str]


def launch_of(package: Mapping[str, Any]) -> Launch | None:
    """Return how a package is run; ``None`` for kinds whose clients unpack them themselves."""
    kind = text(package, "registryType")
    command = text(package, "runtimeHint") or _RUNTIMES.get(kind)
    if command is None or kind not in _RUNTIMES:
        return None
    environment = dict(_environment(package))
    identifier, version = text(package, "identifier"), text(package, "version")
    runtime = list(_arguments(package, "runtimeArguments"))
    if kind == "oci":
        names = [part for name in environment for part in ("-e", name)]
        before = ["run", "-i", "--rm", *names, *[part for part in runtime if part not in ("run", "-i", "--rm")]]
    else:
        before = runtime or (["-y"] if command == "npx" else [])
    joint = "==" if kind == "pypi" else "@"
    target = f"{identifier}{joint}{version}" if version and kind != "oci" else identifier
    arguments = [*before, target, *_arguments(package, "packageArguments")]
    return Launch(command=command, arguments=arguments, environment=environment)


def _environment(package: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for _, variable in objects(package, "environmentVariables"):
        name = text(variable, "name")
        value = _value(variable, name)
        if value is not None:
            yield name, value


def _arguments(package: Mapping[str, Any], field: str) -> Iterator[str]:
    for _, argument in objects(package, field):
        name = text(argument, "name")
        value = _value(argument, name.lstrip("-") or text(argument, "valueHint"))
        if text(argument, "type") == "positional":
            if value is not None:
                yield value
        elif value is not None:
            yield f"{name}={value}"
        elif "value" not in argument and "default" not in argument and argument.get("isRequired") is True:
            yield name


def _value(given: Mapping[str, Any], name: str) -> str | None:
    """Return what an input is set to: a reference where somebody has to say it, ``None`` where nobody has to."""
    if given.get("isSecret") is True:
        return placed(MASK, name)
    fixed = text(given, "value") or text(given, "default")
    if fixed:
        return fixed
    return placed(MASK, name) if given.get("isRequired") is True else None
