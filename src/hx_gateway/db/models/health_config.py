"""What a service says in ``config.health`` of how it is probed: checked when it is written, forgiven when read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INTERVAL_SECONDS = (5.0, 3600.0)
TIMEOUT_SECONDS = (0.5, 30.0)
TOOLS_SECONDS = (60.0, 86_400.0)
THRESHOLD = (1, 10)
MAX_TEXT_CHARS = 1024
# Of what somebody took for a setting, in the message that it is none.
MAX_NAME_CHARS = 50

_SECONDS = {"interval": INTERVAL_SECONDS, "timeout": TIMEOUT_SECONDS}
_THRESHOLDS = ("failures", "successes")
_TEXTS = ("send", "expect")
_SWITCHES = ("mcp", "heartbeat")
_TOOLS = "tools_seconds"
_KNOWN = (*_SECONDS, *_THRESHOLDS, *_TEXTS, *_SWITCHES, _TOOLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The settings of one service; what is ``None`` is as its priority has it.

    ``interval`` and ``timeout`` are seconds; ``failures`` and ``successes`` how many in a row change its state.
    ``send`` and ``expect`` are for TCP, ``mcp`` asks TCP and Unix sockets for an MCP server. ``tools_seconds`` is how
    often it is asked for its tools, 0 for never. ``heartbeat``: it is not asked at all, its heartbeats say how it is.
    """

    interval: float | None = None
    timeout: float | None = None
    failures: int | None = None
    successes: int | None = None
    send: str | None = None
    expect: str | None = None
    mcp: bool = False
    heartbeat: bool = False
    tools_seconds: float | None = None


def health_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rules that ``config["health"]`` breaks, each the rest of a sentence that begins with ``config``."""
    health = config.get("health")
    if health is None:
        return
    if not isinstance(health, dict):
        yield "health must be an object"
        return
    for name, value in health.items():
        rule = _broken_rule(name, value)
        if rule is not None:
            yield f"health.{name[:MAX_NAME_CHARS]} {rule}"


def health_config(config: Mapping[str, Any]) -> HealthConfig:
    """Return the settings in ``config``. Raises nothing: they may be older than today's rules.

    A number beyond a limit counts as that limit. What is no setting, or of another type, counts as not said.
    """
    health = config.get("health")
    if not isinstance(health, dict):
        return HealthConfig()
    read: dict[str, Any] = {}
    for name in _SECONDS.keys() & health.keys():
        if _is_number(health[name]):
            low, high = _SECONDS[name]
            read[name] = min(max(float(health[name]), low), high)
    for name in _THRESHOLDS:
        if _is_integer(health.get(name)):
            read[name] = min(max(health[name], THRESHOLD[0]), THRESHOLD[1])
    read |= {name: health[name] for name in _TEXTS if _is_text(health.get(name))}
    seconds: Any = health.get(_TOOLS)
    if _is_number(seconds):
        read[_TOOLS] = 0.0 if seconds <= 0 else min(max(float(seconds), TOOLS_SECONDS[0]), TOOLS_SECONDS[1])
    switches = {name: health.get(name) is True for name in _SWITCHES}
    return HealthConfig(**{**read, **switches})


def _broken_rule(name: str, value: Any) -> str | None:
    if name in _SECONDS:
        low, high = _SECONDS[name]
        fits = _is_number(value) and low <= value <= high
        return None if fits else f"must be a number of seconds from {low:g} to {high:g}"
    if name in _THRESHOLDS:
        low, high = THRESHOLD
        fits = _is_integer(value) and low <= value <= high
        return None if fits else f"must be an integer from {low} to {high}"
    if name in _TEXTS:
        return None if _is_text(value) else f"must be a text of 1 to {MAX_TEXT_CHARS} characters"
    if name == _TOOLS:
        low, high = TOOLS_SECONDS
        fits = _is_number(value) and (value == 0 or low <= value <= high)
        return None if fits else f"must be a number of seconds from {low:g} to {high:g}, or 0 for never"
    if name in _SWITCHES:
        return None if isinstance(value, bool) else "must be true or false"
    return f"is not a setting; known are {', '.join(_KNOWN)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_CHARS
