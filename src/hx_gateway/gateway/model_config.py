"""LiteLLM's ``config.yaml``: which models there are, and what of the file is not done here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from hx_gateway.cache_rules import CacheRule
from hx_gateway.gateway.cache_config import general_rule, model_rule, unused_parameters
from hx_gateway.gateway.config_document import MissingVariable, ModelConfigError, Section, read_document
from hx_gateway.gateway.model_providers import OPENAI_BASE_URL, Target, find_target
from hx_gateway.services.upstream.base import Deployment, UpstreamKind

__all__ = ["ModelConfig", "ModelConfigError", "load_model_config"]

MAX_NAME_LENGTH = 256
# Beside a model, and harmless to leave aside: they describe it.
_DESCRIPTIONS = ("model_info", "tags")
# Headers of a call that are ours to set.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type"})
_PRICES = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What a file says, in its order.

    ``names``: every ``model_name``, wildcards too. ``deployments``: those that can be called from here;
    ``unsupported`` and ``unusable``: why the others cannot (a provider we do not speak to; a variable that
    is not set). ``timeouts``: the limits in seconds that the file sets, by deployment name and field of
    ``Timeouts``. ``aliases``: name asked for → name meant; ``hidden`` ones are not listed. ``prices``: dollars a token
    by ``model_name``, in LiteLLM's words. ``cache``: what it says of the response cache, in
    general and by model. ``disable_spend_logs`` and ``disable_error_logs``: ``None`` if not said.
    """

    names: tuple[str, ...] = ()
    deployments: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    timeouts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    prices: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    cache: CacheRule | None = None
    cache_of_models: Mapping[str, CacheRule] = field(default_factory=dict)
    disable_spend_logs: bool | None = None
    disable_error_logs: bool | None = None
    warnings: tuple[str, ...] = ()


def load_model_config(path: Path, environ: Mapping[str, str], *, direct: bool = True) -> ModelConfig:
    """Read the file at ``path``. Raises :class:`ModelConfigError` naming file, line and field.

    A variable that is not set makes its model unusable, with a warning, and does not stop the start: files
    are shared between places that hold different keys. ``direct=False``: a proxy serves all models, so only
    their names matter.
    """
    return _Reader(environ, direct=direct).read(read_document(path, environ))


class _Reader:
    """Collects what a file says while it is read."""

    def __init__(self, environ: Mapping[str, str], *, direct: bool) -> None:
        self._environ = environ
        self._direct = direct
        self._names: dict[str, int] = {}
        self._deployments: dict[str, tuple[Deployment, ...]] = {}
        self._unsupported: dict[str, str] = {}
        self._unusable: dict[str, str] = {}
        self._timeouts: dict[str, dict[str, float]] = {}
        self._prices: dict[str, dict[str, Decimal]] = {}
        self._cache: dict[str, CacheRule] = {}
        self._disabled: dict[str, bool] = {}
        self._ignored: dict[str, list[str]] = {}
        self._warnings: list[str] = []

    def read(self, document: Section) -> ModelConfig:
        for entry in document.sections("model_list"):
            self._read_entry(entry)
        aliases, hidden = self._read_aliases(document.section("router_settings"))
        self._read_general(document.section("general_settings"))
        cache = self._read_litellm(document.section("litellm_settings"))
        if variables := document.section("environment_variables").unread():
            self._ignore("environment_variables", *variables)
        self._note_unread(document, "")
        # A name with one usable entry is usable; only the others' reasons are for its clients.
        served = self._deployments.keys()
        return ModelConfig(
            names=tuple(self._names),
            deployments=self._deployments,
            unsupported={name: why for name, why in self._unsupported.items() if name not in served},
            unusable={name: why for name, why in self._unusable.items() if name not in served},
            timeouts=self._timeouts,
            aliases=aliases,
            hidden=hidden,
            prices=self._prices,
            cache=cache,
            cache_of_models=self._cache,
            disable_spend_logs=self._disabled.get("disable_spend_logs"),
            disable_error_logs=self._disabled.get("disable_error_logs"),
            warnings=self._all_warnings(),
        )

    def _read_entry(self, entry: Section) -> None:
        name = _model_name(entry)
        self._names[name] = self._names.get(name, 0) + 1
        if not entry.is_section("litellm_params"):
            raise entry.error("litellm_params", "is missing: it says where the model is")
        params = entry.section("litellm_params")
        entry.know(*_DESCRIPTIONS)
        self._read_prices(name, params, entry.section("model_info"))
        rule = model_rule(entry.section("model_info"))
        if rule is not None:
            self._cache[name] = rule
        if not self._direct:
            return
        try:
            self._read_params(name, params)
        except MissingVariable as missing:
            self._unusable[name] = str(missing)
            self._warnings.append(f"The model {name!r} cannot be used: {missing}.")
            return
        for key in entry.unread():
            self._ignore(f"model_list[].{key}", name)

    def _read_prices(self, name: str, *sections: Section) -> None:
        """Take the prices of a model; of several deployments, and of several places, the highest."""
        for section in sections:
            for key in _PRICES:
                try:
                    price = section.amount(key)
                except MissingVariable as missing:
                    self._warnings.append(f"A price of the model {name!r} is not known: {missing}.")
                    continue
                if price is not None:
                    prices = self._prices.setdefault(name, {})
                    prices[key] = max(price, prices.get(key, price))

    def _read_params(self, name: str, params: Section) -> None:
        model = params.text("model")
        if not model:
            raise params.error("model", "is missing or empty")
        base_key = "api_base" if params.has("api_base") else "base_url"
        provider = params.text("custom_llm_provider")
        # First without the address itself: a provider that is not called needs none of its variables.
        named = find_target(model, provider, "http://" if params.has(base_key) else None)
        if isinstance(named, str):
            self._unsupported[name] = named
            return
        api_base = _checked_url(params, base_key) or self._base_from_environment(named)
        target = find_target(model, provider, api_base)
        if isinstance(target, str) or target.base_url is None:
            raise params.error("api_base", f"is missing: {named.provider!r} has no address of its own")
        self._add(name, target, params)
        for key in params.unread():
            self._ignore(f"model_list[].litellm_params.{key}", name)

    def _base_from_environment(self, target: Target) -> str | None:
        variables = {"hosted_vllm": "HOSTED_VLLM_API_BASE", "litellm_proxy": "LITELLM_PROXY_API_BASE"}
        if target.kind is UpstreamKind.OLLAMA:
            return self._environ.get("OLLAMA_API_BASE") or None
        return self._environ.get(variables.get(target.provider, "")) or None

    def _add(self, name: str, target: Target, params: Section) -> None:
        known = self._deployments.get(name, ())
        label = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        limits = {"head": params.seconds("timeout"), "idle": params.seconds("stream_timeout")}
        deployment = Deployment(
            name=label,
            kind=target.kind,
            model=target.model,
            base_url=target.base_url or "",
            api_key=self._api_key(params, target),
            headers=_headers(params),
            provider=target.provider,
        )
        self._deployments[name] = (*known, deployment)
        self._timeouts[label] = {limit: seconds for limit, seconds in limits.items() if seconds is not None}

    def _api_key(self, params: Section, target: Target) -> str | None:
        key = params.text("api_key")
        if key is None and target.base_url == OPENAI_BASE_URL:
            # OpenAI's key goes to OpenAI alone: to no other address that happens to be given without one.
            key = self._environ.get("OPENAI_API_KEY")
            if not key:
                raise MissingVariable(f"{params.path}.api_key is not given and", "OPENAI_API_KEY")
        if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
            raise params.error("api_key", "holds a space, a control character or a non-ASCII one")
        return key

    def _read_aliases(self, router: Section) -> tuple[dict[str, str], frozenset[str]]:
        aliases: dict[str, str] = {}
        hidden: set[str] = set()
        group = router.section("model_group_alias")
        for alias in list(group.keys()):
            if group.is_section(alias):
                inner = group.section(alias)
                target = inner.text("model")
                if inner.has("hidden"):
                    inner.know("hidden")
                    hidden.add(alias)
            else:
                target = group.text(alias)
            if not target:
                raise group.error(alias, "must name a model")
            aliases[alias] = target
            if self._names and target not in self._names and not any("*" in name for name in self._names):
                self._warnings.append(f"The alias {alias!r} means {target!r}, which is not in model_list.")
        self._note_unread(router, "router_settings.")
        return aliases, frozenset(hidden)

    def _read_general(self, general: Section) -> None:
        if general.has("master_key"):
            general.know("master_key")
            self._warnings.append("general_settings.master_key is not used: HX_ADMIN_KEY is the admin key here.")
        for key in ("disable_spend_logs", "disable_error_logs"):
            value = general.flag(key)
            if value is not None:
                self._disabled[key] = value
        self._note_unread(general, "general_settings.")

    def _read_litellm(self, litellm: Section) -> CacheRule | None:
        """Take the switch of the cache, unless it is that of the proxy which serves the models."""
        rule: CacheRule | None = None
        try:
            rule = general_rule(litellm) if self._direct else None
        except MissingVariable as missing:
            self._warnings.append(f"The response cache is not turned on: {missing}.")
        if rule is not None:
            for key in unused_parameters(litellm):
                self._ignore(f"litellm_settings.cache_params.{key}")
        self._note_unread(litellm, "litellm_settings.")
        return rule

    def _note_unread(self, section: Section, prefix: str) -> None:
        for key in section.unread():
            self._ignore(prefix + key)

    def _ignore(self, path: str, *names: str) -> None:
        noted = self._ignored.setdefault(path, [])
        noted.extend(name for name in names if name not in noted)

    def _all_warnings(self) -> tuple[str, ...]:
        warnings = list(self._warnings)
        if self._unsupported:
            listed = ", ".join(f"{name} ({reason})" for name, reason in self._unsupported.items())
            warnings.append(f"These models cannot be called directly and answer 501: {listed}.")
        if self._ignored:
            listed = ", ".join(path + _shown(names) for path, names in self._ignored.items())
            warnings.append(f"These settings have no effect here: {listed}.")
        return tuple(warnings)


def _model_name(entry: Section) -> str:
    name = entry.text("model_name")
    if not name:
        raise entry.error("model_name", "is missing or empty")
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise entry.error("model_name", f"must be at most {MAX_NAME_LENGTH} printable characters")
    return name


def _checked_url(params: Section, key: str) -> str | None:
    url = params.text(key)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
        parts = urlsplit("")
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise params.error(key, "must be a URL like https://host/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise params.error(key, "must hold no credentials, query or fragment; use 'api_key' and 'extra_headers'")
    return url


def _headers(params: Section) -> dict[str, str]:
    headers = {name.lower(): value for name, value in params.texts("extra_headers").items()}
    for name, value in headers.items():
        if name in _OWN_HEADERS or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise params.error("extra_headers", f"{name!r} is not a header that can be set")
        if not value.isascii() or not value.isprintable():
            raise params.error("extra_headers", f"the value of {name!r} holds a control or non-ASCII character")
    organization = params.text("organization")
    if organization is not None:
        headers.setdefault("openai-organization", organization)
    return headers


def _shown(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f" ({', '.join(names[:_SHOWN_NAMES])}{more})"
