"""LiteLLM beside the gateway: its version, and whether its Langfuse callback finds a ``langfuse`` that it can use.

What a LiteLLM needs is read from its own source, which is not the same from one to the next. That of 1.108 names a
range (``MINIMUM_LANGFUSE_VERSION`` to ``UNSUPPORTED_LANGFUSE_VERSION``, 4.7 to 5) and does not start beyond it. That of
1.74 passes ``sdk_integration`` to ``Langfuse``, which takes it up to 2 and raises ``TypeError`` from 3 on.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path

import msgspec

from hx_gateway.doctor.core_unit import CoreUnit, is_safe_to_run, read_core_unit
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.doctor.programs import ProgramFailed, output_of
from hx_gateway.doctor.threads import in_thread
from hx_gateway.doctor.upstream import ask_upstream
from hx_gateway.doctor.versions import release_of
from hx_gateway.services.upstream.base import UpstreamError
from hx_gateway.wiring.litellm_config import LITELLM_VERSION
from hx_gateway.wiring.yaml_edit import get_value
from hx_gateway.wiring.yaml_tree import YamlProblem

CALLBACK_KEYS = ("success_callback", "failure_callback", "callbacks")
LANGFUSE, LANGFUSE_OTEL = "langfuse", "langfuse_otel"
# Of a LiteLLM that passes `sdk_integration`: what its own tests were run with, and the first one without it.
BOUNDS_OF_INTEGRATION = ("2.45", "3")
# A running proxy tells the classes that it made of these callbacks.
CLASSES = {"LangfusePromptManagement": LANGFUSE, "LangfuseOtelLogger": LANGFUSE_OTEL}
# Of 1.108, for its master key, and of older ones, for anybody.
READINESS_PATHS = ("/health/readiness/details", "/health/readiness")
_OTHER_PYTHON = "Let --litellm-python name the Python that LiteLLM runs with."
EXPORTER = "opentelemetry-exporter-otlp-proto-http"
# Run by LiteLLM's own Python, with nothing of LiteLLM's imported.
PROBE = """
import json, re, sys
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
def source():
    try:
        found = metadata.distribution("litellm").locate_file("litellm/integrations/langfuse/langfuse.py")
        return found.read_text("utf-8", "replace")
    except (metadata.PackageNotFoundError, OSError):
        return ""
text = source()
def named(constant):
    found = re.search(rf'^{constant}\\b[^=]*= *"([0-9.]+)"', text, re.MULTILINE)
    return found and found[1]
print(json.dumps({
    "litellm": version("litellm"), "langfuse": version("langfuse"), "exporter": version(sys.argv[1]),
    "oldest": named("MINIMUM_LANGFUSE_VERSION"), "below": named("UNSUPPORTED_LANGFUSE_VERSION"),
    "passes_integration": "sdk_integration" in text,
}))
"""


class Installed(msgspec.Struct, frozen=True):
    """What LiteLLM's environment holds; ``oldest`` and ``below`` are the bounds for ``langfuse`` that it names."""

    litellm: str | None
    langfuse: str | None
    exporter: str | None = None
    oldest: str | None = None
    below: str | None = None
    passes_integration: bool = False

    @property
    def bounds(self) -> tuple[str, str] | None:
        """The oldest ``langfuse`` that this LiteLLM works with and the first too new one, where its source tells."""
        if self.oldest is not None and self.below is not None:
            return self.oldest, self.below
        return BOUNDS_OF_INTEGRATION if self.passes_integration else None

    @property
    def needed(self) -> str:
        """:attr:`bounds` as pip writes them."""
        return ">={},<{}".format(*self.bounds) if self.bounds is not None else ""

    @property
    def consequence(self) -> str:
        """What becomes of a callback without a ``langfuse`` that it works with."""
        return "LiteLLM does not start" if self.oldest is not None else "nothing is logged there"

    @property
    def is_a_pair(self) -> bool:
        """Whether ``langfuse`` is within :attr:`bounds`."""
        if self.langfuse is None or self.bounds is None:
            return False
        oldest, below = (release_of(bound) for bound in self.bounds)
        return oldest <= release_of(self.langfuse) < below


@dataclass(frozen=True, slots=True)
class Environment:
    """LiteLLM's Python, and what it told."""

    python: Path
    installed: Installed


class _Readiness(msgspec.Struct):
    """What a proxy says of itself at one of :data:`READINESS_PATHS`."""

    litellm_version: str | None = None
    success_callbacks: list[str] = []


@dataclass(frozen=True, slots=True)
class Wanted:
    """Callbacks that a configuration or a running proxy names, and what names them."""

    callbacks: frozenset[str]
    by: str


async def examine_litellm(around: Surroundings) -> list[Finding]:
    """Look at the running proxy, at LiteLLM's environment, and at what its configuration asks for."""
    try:
        unit, unread = await in_thread(partial(read_core_unit, around.layout)), []
    except OSError as error:
        unit = CoreUnit()
        unread = [note(Subject.LITELLM, f"its unit cannot be read: {error}", "Name --litellm-python yourself.")]
    told, (found, installed) = await asyncio.gather(_told_by_upstream(around), _environment(around, unit))
    unusable, wanted = await in_thread(partial(_wanted, around, unit, told))
    found = [*unread, *unusable, *found]
    if installed is None:
        return [*found, *_without_environment(told, wanted)]
    return [*found, judge_litellm(installed), *_judge_running(installed, told), *judge_langfuse(installed, wanted)]


async def _environment(around: Surroundings, unit: CoreUnit) -> tuple[list[Finding], Environment | None]:
    """Return what is installed beside LiteLLM: where the operator says, the unit does, or in our own environment."""
    named = around.litellm_python or (None if unit.python is not None else _own_python())
    python = named or unit.python
    if python is None:
        return [], None
    if named is None and not is_safe_to_run(python):
        detail = f"{python} is not run: another account than root and ours could have changed it"
        return [note(Subject.LITELLM, detail, f"Name it yourself: hx-gateway doctor --litellm-python {python}.")], None
    try:
        return [], Environment(python, await ask_python(python))
    except ProgramFailed as error:
        return [problem(Subject.LITELLM, f"{python}: {error}", _OTHER_PYTHON)], None


async def ask_python(python: Path) -> Installed:
    """Return what ``python`` has installed. Raises :class:`ProgramFailed`."""
    output = await output_of(python, "-I", "-c", PROBE, EXPORTER)
    try:
        return msgspec.json.decode(output, type=Installed)
    except msgspec.DecodeError as error:
        raise ProgramFailed("it is no Python of 3.8 or newer") from error


def judge_litellm(there: Environment) -> Finding:
    """Judge LiteLLM's version."""
    if there.installed.litellm is None:
        return problem(Subject.LITELLM, f"{there.python} has no litellm", _OTHER_PYTHON)
    return _known(there.installed.litellm, f"in {there.python}")


def _judge_running(there: Environment, told: _Readiness | None) -> list[Finding]:
    """Tell of a proxy that runs another version than the one that is installed."""
    running = told.litellm_version if told is not None else None
    if running is None or there.installed.litellm in (None, running):
        return []
    detail = f"the upstream runs {running}, and {there.python} has {there.installed.litellm}"
    return [note(Subject.LITELLM, detail, "Restart LiteLLM, or name the Python that it runs with.")]


def judge_langfuse(there: Environment, wanted: Wanted) -> list[Finding]:
    """Judge what the callbacks need; where none is wanted, only what would fail if it were."""
    installed = there.installed
    if installed.litellm is None:
        return []
    found = []
    if LANGFUSE_OTEL in wanted.callbacks:
        if installed.exporter is None:
            detail = f"{wanted.by} asks for {LANGFUSE_OTEL}, and {EXPORTER} is not installed: nothing is sent"
            found.append(problem(Subject.LANGFUSE, detail, f"{there.python} -m pip install {EXPORTER}"))
        else:
            found.append(ok(Subject.LANGFUSE, f"{LANGFUSE_OTEL} with {EXPORTER} {installed.exporter}"))
    if LANGFUSE in wanted.callbacks:
        found.append(_judge_pair(there, wanted))
    elif installed.langfuse is not None and installed.bounds is not None and not installed.is_a_pair:
        detail = f"litellm {installed.litellm} does not work with langfuse {installed.langfuse}; nothing asks for it"
        found.append(note(Subject.LANGFUSE, detail, _install(there)))
    return found


def _judge_pair(there: Environment, wanted: Wanted) -> Finding:
    installed = there.installed
    pair = f"litellm {installed.litellm} with langfuse {installed.langfuse}"
    if installed.langfuse is None:
        detail = f"{wanted.by} asks for {LANGFUSE}, which is not installed: {installed.consequence}"
        return problem(Subject.LANGFUSE, detail, _install(there))
    if installed.bounds is None:
        detail = f"{pair}: what this litellm needs is not known"
        return note(Subject.LANGFUSE, detail, "See in Langfuse that calls arrive.")
    if not installed.is_a_pair:
        detail = f"{pair} does not work, it needs {installed.needed}: {installed.consequence}"
        return problem(Subject.LANGFUSE, detail, _install(there))
    return ok(Subject.LANGFUSE, pair)


def _install(there: Environment) -> str:
    return f"{there.python} -m pip install 'langfuse{there.installed.needed}', then restart LiteLLM."


def _known(version: str, where: str) -> Finding:
    if version == LITELLM_VERSION:
        return ok(Subject.LITELLM, f"{version} {where}")
    detail = f"{version} {where}; {LITELLM_VERSION} is the one that the gateway is tested with"
    return note(Subject.LITELLM, detail, "Install requirements-litellm.lock in LiteLLM's environment.")


def _without_environment(told: _Readiness | None, wanted: Wanted) -> list[Finding]:
    found = []
    if told is not None and told.litellm_version is not None:
        found.append(_known(told.litellm_version, "says the upstream"))
    if LANGFUSE in wanted.callbacks or LANGFUSE_OTEL in wanted.callbacks:
        detail = f"{wanted.by} asks for it; what LiteLLM's environment holds is not known"
        found.append(note(Subject.LANGFUSE, detail, "Name its Python: hx-gateway doctor --litellm-python PATH."))
    return found


def _wanted(around: Surroundings, unit: CoreUnit, told: _Readiness | None) -> tuple[list[Finding], Wanted]:
    """Return the callbacks that the first configuration there is asks for, else those that the proxy tells."""
    layout = around.layout
    places = (unit.config, layout.at(layout.config), around.settings.model_config_file)
    path = around.litellm_config or next((place for place in places if place is not None and place.is_file()), None)
    running = frozenset(CLASSES.get(name, name) for name in (told.success_callbacks if told is not None else ()))
    if path is None:
        return [], Wanted(running, "the upstream")
    try:
        configured = callbacks_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YamlProblem) as error:
        detail = f"{path} cannot be read: {error}"
        return [problem(Subject.LITELLM, detail, "Correct the file.")], Wanted(running, "the upstream")
    return [], Wanted(configured | running, str(path))


def callbacks_of(text: str) -> frozenset[str]:
    """Return the callbacks that a LiteLLM configuration names. Raises ``YamlProblem``."""
    found: set[str] = set()
    for key in CALLBACK_KEYS:
        node = get_value(text, ("litellm_settings", key))
        if node is not None:
            found |= {part.text for part in node.walk() if part.kind == "scalar" and part.text}
    return frozenset(found)


async def _told_by_upstream(around: Surroundings) -> _Readiness | None:
    """Return what a proxy says of itself; ``None`` for another server, or one that is away, which is told elsewhere."""
    base = around.settings.litellm_base_url
    if base is None:
        return None
    answers = await asyncio.gather(*(_readiness(around, base, path) for path in READINESS_PATHS))
    return next((answer for answer in answers if answer is not None and answer.litellm_version is not None), None)


async def _readiness(around: Surroundings, base: str, path: str) -> _Readiness | None:
    try:
        _, body = await ask_upstream(around, base, path)
        return msgspec.json.decode(body, type=_Readiness)
    except (UpstreamError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _own_python() -> Path | None:
    """Return our own Python where LiteLLM is installed beside the gateway."""
    return Path(sys.executable) if util.find_spec("litellm") is not None else None
