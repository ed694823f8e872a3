"""Who serves which model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hx_gateway.errors import HXError, NotFound, NotImplementedHere, Unavailable
from hx_gateway.gateway.model_config import ModelConfig
from hx_gateway.gateway.model_providers import OPENAI_BASE_URL, OPENAI_NAMES
from hx_gateway.services.upstream.base import Deployment, Timeouts, UpstreamKind
from hx_gateway.services.upstream.demo import DEMO_DEPLOYMENTS

Served = tuple[Deployment, ...]
# Names that patterns matched and whose deployments are kept: clients make names up.
MAX_MATCHED = 1024


@dataclass(frozen=True, slots=True)
class Pattern:
    """Model names with one ``*``; the deployments' own ``*`` stands for what it matched."""

    text: str
    deployments: Served = ()
    refusal: str | None = None

    def match(self, model: str) -> str | None:
        """Return what ``*`` stands for in ``model``, ``None`` where the name is another."""
        before, _, after = self.text.partition("*")
        if len(model) < len(before) + len(after) or not model.startswith(before) or not model.endswith(after):
            return None
        return model[len(before) : len(model) - len(after)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """Finds a model's deployments by exact name, then by pattern: the first that fits.

    ``open_ended``: an upstream serves whatever it likes, and its own list is the list of models. ``listed``
    are the names of :meth:`names`. ``unsupported`` and ``unusable`` say of models in the configuration why
    nobody serves them; the reasons are for the log, never for a client.
    """

    exact: Mapping[str, Served] = field(default_factory=dict)
    patterns: tuple[Pattern, ...] = ()
    unsupported: Mapping[str, str] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    open_ended: bool = False
    _matched: dict[str, Served] = field(default_factory=dict, init=False, repr=False, compare=False)

    def resolve(self, model: str) -> Served:
        """Return who serves ``model``, best first.

        Raises ``NotFound`` (``model_not_found``), ``NotImplementedHere`` (``unsupported_provider``) or
        ``Unavailable`` (``model_not_configured``).
        """
        found = self.exact.get(model) or self._matched.get(model)
        if found is not None:
            return found
        if model in self.unsupported or model in self.unusable:
            raise _refusal(model, unusable=model in self.unusable)
        for pattern in self.patterns:
            matched = pattern.match(model)
            if matched is None:
                continue
            if pattern.refusal is not None:
                raise _refusal(model, unusable=pattern.text in self.unusable)
            served = tuple(_filled(deployment, matched) for deployment in pattern.deployments)
            if len(self._matched) < MAX_MATCHED:
                self._matched[model] = served
            return served
        raise NotFound(f"The model {model!r} does not exist.", param="model", code="model_not_found")

    def names(self) -> tuple[str, ...]:
        """Return the names that stand for one model each, without patterns."""
        return self.listed

    def knows(self, model: str) -> bool:
        """Return whether ``model`` is one of a bounded set of names: fit to be a metric's label."""
        return model in self.exact


def _filled(deployment: Deployment, matched: str) -> Deployment:
    return replace(deployment, model=deployment.model.replace("*", matched, 1))


def _refusal(model: str, *, unusable: bool) -> HXError:
    if unusable:
        return Unavailable(
            f"The model {model!r} is not fully configured on this gateway; its log says what is missing.",
            code="model_not_configured",
            retry_after_seconds=60,
        )
    return NotImplementedHere(
        f"The model {model!r} belongs to a provider that this gateway does not call directly.",
        param="model",
        code="unsupported_provider",
        should_retry=False,
    )


def build_model_table(
    *,
    litellm_base_url: str | None,
    litellm_api_key: str | None,
    config: ModelConfig | None,
    openai_api_key: str | None,
    demo: bool,
    timeouts: Timeouts | None = None,
) -> ModelTable:
    """Return the table. ``timeouts`` hold wherever the file sets none.

    With ``litellm_base_url`` every model goes there under its own name, and nothing else is served: not the
    demo models, which may be its own names, nor OpenAI past the proxy. ``openai_api_key`` comes last: it
    replaces none.
    """
    timeouts = timeouts or Timeouts()
    if litellm_base_url:
        root = litellm_base_url.rstrip("/").removesuffix("/v1") + "/v1"
        proxy = Deployment(
            name="litellm",
            kind=UpstreamKind.OPENAI,
            model="*",
            base_url=root,
            api_key=litellm_api_key,
            timeouts=timeouts,
        )
        return _behind_proxy(proxy, config)
    return _direct(config, openai_api_key, demo, timeouts)


def _behind_proxy(proxy: Deployment, config: ModelConfig | None) -> ModelTable:
    if config is None:
        return ModelTable(patterns=(Pattern("*", (proxy,)),), open_ended=True)
    exact: dict[str, Served] = {
        name: (replace(proxy, name=name, model=name),) for name in config.names if "*" not in name
    }
    patterns = [Pattern(name, (replace(proxy, name=name, model=name),)) for name in config.names if "*" in name]
    return ModelTable(exact=exact, patterns=_by_precision(patterns), listed=_listed(exact, config))


def _direct(config: ModelConfig | None, openai_api_key: str | None, demo: bool, timeouts: Timeouts) -> ModelTable:
    config = config or ModelConfig()
    configured = {
        name: tuple(_limited(deployment, config, timeouts) for deployment in deployments)
        for name, deployments in config.deployments.items()
    }
    exact = {name: served for name, served in configured.items() if "*" not in name}
    refused = {**config.unsupported, **config.unusable}
    if demo:
        for deployment in DEMO_DEPLOYMENTS:
            if deployment.model not in refused:
                exact.setdefault(deployment.model, (replace(deployment, timeouts=timeouts),))
    patterns = [Pattern(name, served) for name, served in configured.items() if "*" in name]
    patterns += [Pattern(name, refusal=reason) for name, reason in refused.items() if "*" in name]
    openai = _openai_patterns(openai_api_key, timeouts) if openai_api_key else ()
    return ModelTable(
        exact=exact,
        patterns=(*_by_precision(patterns), *openai),
        unsupported=config.unsupported,
        unusable=config.unusable,
        listed=_listed(exact, config),
    )


def _limited(deployment: Deployment, config: ModelConfig, timeouts: Timeouts) -> Deployment:
    return replace(deployment, timeouts=replace(timeouts, **config.timeouts.get(deployment.name, {})))


def _openai_patterns(api_key: str, timeouts: Timeouts) -> tuple[Pattern, ...]:
    return tuple(
        Pattern(
            pattern,
            (
                Deployment(
                    name="openai",
                    kind=UpstreamKind.OPENAI,
                    model=pattern,
                    base_url=OPENAI_BASE_URL,
                    api_key=api_key,
                    timeouts=timeouts,
                ),
            ),
        )
        for pattern in OPENAI_NAMES
    )


def _by_precision(patterns: Iterable[Pattern]) -> tuple[Pattern, ...]:
    """Return ``patterns``, those that say most of a name first."""
    return tuple(sorted(patterns, key=lambda pattern: len(pattern.text), reverse=True))


def _listed(exact: Mapping[str, Served], config: ModelConfig | None) -> tuple[str, ...]:
    if config is None:
        return tuple(exact)
    visible = [alias for alias in config.aliases if alias not in config.hidden and alias not in exact]
    return (*exact, *visible)
