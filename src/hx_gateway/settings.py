"""Every setting of the server: its environment variable, type, default and rule. Read once, at the start."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hx_gateway.setting_sources import ENV_FILE_VARIABLE, SourceProblem, database_from_parts, misspelt, read_layers
from hx_gateway.setting_values import OptionalPath, OptionalSecret, OptionalText, Words, check_address, check_admin_key

NOT_CONFIGURED = "none"
GUARDED_PREFIXES = ("/v1/keys", "/v1/api_keys", "/v1/teams", "/v1/users", "/v1/tenants")
# Variables of ours that something other than this class reads.
OTHER_VARIABLES = frozenset({ENV_FILE_VARIABLE})

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """A value that the server must not start with: one sentence a line, each naming its variable."""


class Settings(BaseSettings):
    """The server's settings, frozen. Field descriptions are the reference; secrets are :class:`SecretStr`."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=True, extra="ignore", populate_by_name=True)

    # The server
    host: str = Field("127.0.0.1", alias="WRAPPER_HOST", description="Address to listen on.")
    port: int = Field(4010, alias="WRAPPER_PORT", ge=0, le=65535, description="Port to listen on; 0 picks one.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="WRAPPER_LOG_LEVEL", description="Least severe level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        alias="HX_LOG_FORMAT",
        description="`json` a line, `console` for people; `auto`: console on a terminal.",
    )
    access_log: bool = Field(True, alias="HX_ACCESS_LOG", description="One log line for each request.")
    workers: int = Field(1, alias="HX_WORKERS", ge=1, le=64, description="Processes that serve.")
    data_dir: OptionalPath = Field(
        None,
        alias="HX_DATA_DIR",
        description="Where state is kept; see `data directory` in the docs for the default.",
    )
    tls_cert: OptionalPath = Field(None, alias="HX_TLS_CERT", description="Certificate chain (PEM) to serve TLS with.")
    tls_key: OptionalPath = Field(None, alias="HX_TLS_KEY", description="Private key (PEM) of `HX_TLS_CERT`.")
    trusted_proxies: Words = Field(
        (),
        alias="HX_TRUSTED_PROXIES",
        description="Addresses or networks whose `X-Forwarded-For` is believed.",
    )
    cors_origins: Words = Field((), alias="HX_CORS_ORIGINS", description="Origins that browsers may call from; none.")
    drain_seconds: float = Field(
        120.0,
        alias="HX_DRAIN_SECONDS",
        ge=0,
        le=3600,
        description="How long running requests may finish after SIGTERM.",
    )
    pre_stop_seconds: float = Field(
        0.0,
        alias="HX_PRE_STOP_SECONDS",
        ge=0,
        le=60,
        description="How long to keep listening after SIGTERM, at least.",
    )
    max_connections: int = Field(
        10_000,
        alias="HX_MAX_CONNECTIONS",
        ge=1,
        description="Client connections a worker holds; more get a 503.",
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024, alias="HX_MAX_BODY_BYTES", ge=1024, description="Largest JSON body, in bytes."
    )

    # Access
    admin_key: SecretStr | None = Field(
        None,
        alias="HX_ADMIN_KEY",
        description="The admin key, 32 characters or more; made on the first start if unset.",
    )
    disable_admin_ui: bool = Field(False, alias="DISABLE_ADMIN_UI", description="Turns the admin page off.")
    pepper_file: OptionalPath = Field(
        None,
        alias="HX_PEPPER_FILE",
        description="What keys are hashed with; `peppers.json` in the data directory. Several hosts share one.",
    )
    key_stale_max: float = Field(
        86_400.0,
        alias="HX_KEY_STALE_MAX",
        ge=0,
        le=7 * 86_400,
        description="Seconds that a known key is served while PostgreSQL cannot be asked.",
    )

    # The response cache
    cache: Literal["off", "ask", "exact", "meaning"] | None = Field(
        None,
        alias="HX_CACHE",
        description="`exact`: repeated requests are answered from memory; `meaning`: reworded too; `ask`: who asks.",
    )
    cache_ttl: int | None = Field(
        None, alias="HX_CACHE_TTL", ge=1, le=30 * 86_400, description="Seconds that an answer is kept; 3600 if unset."
    )
    cache_scope: Literal["tenant", "team", "user", "key"] = Field(
        "tenant", alias="HX_CACHE_SCOPE", description="Who shares answers: all of a tenant, a team, a user or a key."
    )
    cache_max_bytes: int = Field(
        64 * 1024**2, alias="HX_CACHE_MAX_BYTES", ge=1024, description="Bytes kept a process; in Redis, a tenant."
    )
    cache_entry_max_bytes: int = Field(
        256 * 1024, alias="HX_CACHE_ENTRY_MAX_BYTES", ge=1, le=4 * 1024**2, description="Bytes of an answer, most."
    )
    cache_budget_ms: int = Field(
        30, alias="HX_CACHE_BUDGET_MS", ge=3, le=10_000, description="How long a look-up in Redis may take, in ms."
    )
    cache_embedding_model: OptionalText = Field(
        None,
        alias="HX_CACHE_EMBEDDING_MODEL",
        description="Compares requests by meaning: a model served here, or `fastembed/` and one of its own; none.",
    )
    cache_embedding_folder: OptionalPath = Field(
        None,
        alias="HX_CACHE_EMBEDDING_FOLDER",
        description="Where the files of a model of `fastembed` are; they are downloaded if unset.",
    )
    cache_similarity: float = Field(
        0.95, alias="HX_CACHE_SIMILARITY", ge=0, le=1, description="How near two meanings must be: 1 is the same."
    )
    cache_meaning_budget_ms: int = Field(
        30,
        alias="HX_CACHE_MEANING_BUDGET_MS",
        ge=1,
        le=10_000,
        description="How long a request may wait for a look-up by meaning, in milliseconds.",
    )
    cache_meaning_entries: int = Field(
        5000, alias="HX_CACHE_MEANING_ENTRIES", ge=10, le=1_000_000, description="Answers by meaning kept a tenant."
    )

    # Limits and spend
    default_key_rpm: int | None = Field(
        None,
        alias="HX_DEFAULT_KEY_RPM",
        ge=1,
        le=1_000_000_000,
        description="Requests a minute of keys without a limit of their own; none if unset.",
    )
    default_max_output: int = Field(
        8192,
        alias="HX_DEFAULT_MAX_OUTPUT",
        ge=1,
        le=1_000_000,
        description="Output cap of calls under a budget whose client names none, in tokens.",
    )
    limits_mode: Literal["enforce", "shadow"] = Field(
        "enforce",
        alias="HX_LIMITS_MODE",
        description="`shadow`: limits and budgets decide and log, and refuse nobody.",
    )
    disable_spend_logs: bool = Field(
        False,
        alias="DISABLE_SPEND_LOGS",
        description="No spend record of calls that no budget is charged with.",
    )
    disable_error_logs: bool = Field(False, alias="DISABLE_ERROR_LOGS", description="No record of failed requests.")
    spend_logs_retention_days: int = Field(
        365, alias="SPEND_LOGS_RETENTION_DAYS", ge=1, le=3650, description="Days that spend records are kept."
    )
    error_logs_retention_days: int = Field(
        90, alias="ERROR_LOGS_RETENTION_DAYS", ge=1, le=3650, description="Days that error records are kept."
    )
    budget_webhook_url: OptionalText = Field(
        None,
        alias="HX_BUDGET_WEBHOOK_URL",
        description="Where a budget's soft threshold is reported to, once a period.",
    )
    budget_webhook_secret: OptionalSecret = Field(
        None, alias="HX_BUDGET_WEBHOOK_SECRET", description="Signs those reports (`x-hx-signature`)."
    )

    # Stores
    pg_url: OptionalSecret = Field(
        None,
        validation_alias=AliasChoices("PG_URL", "DATABASE_URL", "DATABASE_URI"),
        description="PostgreSQL; also read as `DATABASE_URL`, `DATABASE_URI`. `none`: run without.",
    )
    redis_url: OptionalSecret = Field(None, alias="REDIS_URL", description="Redis or Valkey. `none`: run without.")
    qdrant_url: OptionalText = Field(None, alias="QDRANT_URL", description="Qdrant. `none`: run without.")
    qdrant_api_key: OptionalSecret = Field(None, alias="QDRANT_API_KEY", description="Qdrant's API key.")
    embedded: bool = Field(
        True,
        alias="HX_EMBEDDED",
        description="Start stores of our own for those without a URL; `off`: refuse to start.",
    )
    pg_min_connections: int = Field(1, alias="PG_MIN_CONNECTIONS", ge=0, le=1000, description="PostgreSQL pool, least.")
    pg_max_connections: int = Field(5, alias="PG_MAX_CONNECTIONS", ge=1, le=1000, description="PostgreSQL pool, most.")
    redis_max_connections: int = Field(
        10, alias="REDIS_MAX_CONNECTIONS", ge=1, le=10_000, description="Redis connections a worker, most."
    )
    pool_size: int = Field(10, alias="POOL_SIZE", ge=1, le=1000, description="Entity pool, kept open.")
    pool_overflow: int = Field(20, alias="POOL_OVERFLOW", ge=0, le=1000, description="Entity pool, on top under load.")

    # Record
    journal_dir: OptionalPath = Field(
        None,
        alias="HX_JOURNAL_DIR",
        description="Where events wait for the database; `journal` in the data directory.",
    )
    journal_durability: Literal["memory", "process", "group", "always"] = Field(
        "process",
        alias="HX_JOURNAL_DURABILITY",
        description="What an acknowledged event survives; see `what survives what` in the docs.",
    )
    journal_max_bytes: int = Field(
        2 * 1024**3,
        alias="HX_JOURNAL_MAX_BYTES",
        ge=64 * 1024**2,
        description="What waiting events may take on disk, all workers together; a tenth of the disk at most.",
    )
    journal_min_free_bytes: int = Field(
        512 * 1024**2,
        alias="HX_JOURNAL_MIN_FREE_BYTES",
        ge=0,
        description="What waiting events leave free on their disk.",
    )
    event_batch_size: int = Field(
        100, alias="HX_EVENT_BATCH_SIZE", ge=1, le=5000, description="Events that are worth a batch at once."
    )
    event_batch_ms: int = Field(
        1000, alias="HX_EVENT_BATCH_MS", ge=10, le=60_000, description="How long fewer events wait, in milliseconds."
    )
    record_connections: int = Field(
        4,
        alias="HX_RECORD_CONNECTIONS",
        ge=1,
        le=1000,
        description="PostgreSQL connections a worker that read the record, most; 5 more write and watch.",
    )
    trace_sample: float = Field(
        1.0,
        alias="HX_TRACE_SAMPLE",
        ge=0,
        le=1,
        description="Share of model requests that are recorded; errors always are.",
    )
    trace_events_retention_days: int = Field(
        30, alias="TRACE_EVENTS_RETENTION_DAYS", ge=1, le=3650, description="Days that trace events are kept."
    )
    routing_decisions_retention_days: int = Field(
        90, alias="ROUTING_DECISIONS_RETENTION_DAYS", ge=1, le=3650, description="Days that routing decisions are kept."
    )
    performance_metrics_retention_days: int = Field(
        180,
        alias="PERFORMANCE_METRICS_RETENTION_DAYS",
        ge=1,
        le=3650,
        description="Days that performance metrics are kept.",
    )
    transformation_events_retention_days: int = Field(
        90,
        alias="TRANSFORMATION_EVENTS_RETENTION_DAYS",
        ge=1,
        le=3650,
        description="Days that transformation events are kept.",
    )
    otlp_endpoint: OptionalText = Field(
        None,
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="An OTLP/HTTP collector (or Langfuse) that model calls are also sent to.",
    )
    otlp_traces_endpoint: OptionalText = Field(
        None,
        alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        description="The whole address for spans, instead of `/v1/traces` below the other; alone, no metrics are sent.",
    )
    otlp_headers: OptionalSecret = Field(
        None,
        alias="OTEL_EXPORTER_OTLP_HEADERS",
        description="Headers for it, `name=value` separated by commas, values percent-encoded.",
    )
    logfire_token: OptionalSecret = Field(
        None, alias="LOGFIRE_TOKEN", description="A write token of Logfire, which is the collector then."
    )

    # Health
    health_check_interval: float = Field(
        30.0,
        alias="HEALTH_CHECK_INTERVAL",
        gt=0,
        le=3600,
        description="Seconds between two full health rounds.",
    )
    health_check_timeout: float = Field(
        5.0, alias="HEALTH_CHECK_TIMEOUT", gt=0, le=60, description="Seconds that one health round may take."
    )
    enable_db_guard: bool = Field(
        True, alias="ENABLE_DB_GUARD", description="503 on admin routes while a store is away."
    )
    db_guard_prefixes: Words = Field(
        GUARDED_PREFIXES, alias="HX_DB_GUARD_PREFIXES", description="Path prefixes that DB-Guard watches."
    )
    enable_health_endpoints: bool = Field(
        True, alias="ENABLE_HEALTH_ENDPOINTS", description="The detailed `/health/…` endpoints."
    )

    # The registry
    registry_require_if_match: bool = Field(
        False,
        alias="HX_REGISTRY_REQUIRE_IF_MATCH",
        description="Changes of a service must name the version that they are of (`if-match`).",
    )

    registry_namespace: str = Field(
        "internal.hx-gateway",
        alias="HX_REGISTRY_NAMESPACE",
        description="What goes before names of services that have no namespace, on the MCP registry's API.",
    )
    public_url: OptionalText = Field(
        None,
        alias="HX_PUBLIC_URL",
        description="Where clients reach this gateway: servers of the MCP registry's API have it as their remote.",
    )
    registry_public_tenant: OptionalText = Field(
        None,
        alias="HX_REGISTRY_PUBLIC_TENANT",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="Whose servers the MCP registry's API shows to those without a key; nobody's.",
    )
    registry_package_sources: Words = Field(
        (),
        alias="HX_REGISTRY_PACKAGE_SOURCES",
        description="Where packages may come from, as `kind=place`; anywhere, for kinds that are not named.",
    )
    registry_sync: Words = Field(
        (),
        alias="HX_REGISTRY_SYNC",
        description="Registries that tenants take servers from, as `tenant=url`; none.",
    )
    registry_sync_seconds: float = Field(
        3600.0,
        alias="HX_REGISTRY_SYNC_SECONDS",
        ge=60,
        le=86_400,
        description="Seconds from one synchronisation to the next.",
    )
    registry_probing: bool = Field(
        True, alias="HX_REGISTRY_PROBING", description="Registered services are probed, and their health kept."
    )
    registry_commands_file: OptionalPath = Field(
        None, alias="HX_REGISTRY_COMMANDS", description="STDIO servers that may be started to be probed (JSON)."
    )
    egress_allow: Words = Field(
        (),
        alias="HX_EGRESS_ALLOW",
        description="Private networks and host names that URLs of users may lead to; none.",
    )
    egress_schemes: Words = Field(
        ("http", "https", "tcp", "ws", "wss"), alias="HX_EGRESS_SCHEMES", description="Schemes of users' URLs."
    )
    egress_ports: Words = Field(
        ("80", "443", "1024-65535"), alias="HX_EGRESS_PORTS", description="Ports of users' URLs."
    )
    egress_socket_dirs: Words = Field(
        (), alias="HX_EGRESS_SOCKET_DIRS", description="Folders of Unix sockets that may be connected to; none."
    )

    # Models
    litellm_base_url: OptionalText = Field(
        None,
        alias="LITELLM_BASE_URL",
        description="A LiteLLM proxy (or any OpenAI-like server) that serves all models.",
    )
    litellm_api_key: OptionalSecret = Field(
        None,
        validation_alias=AliasChoices("LITELLM_API_KEY", "LITELLM_MASTER_KEY"),
        description="The gateway's credential there; also read as `LITELLM_MASTER_KEY`.",
    )
    model_config_file: OptionalPath = Field(
        None, alias="HX_MODEL_CONFIG", description="Models in LiteLLM's `config.yaml` format."
    )
    openai_api_key: OptionalSecret = Field(None, alias="OPENAI_API_KEY", description="Adds OpenAI's models.")
    demo: bool | None = Field(
        None, alias="HX_DEMO", description="The demo models; on unless `HX_MODEL_CONFIG` is given."
    )
    upstream_max_connections: int = Field(
        1000,
        alias="HX_UPSTREAM_MAX_CONNECTIONS",
        ge=1,
        description="Connections to model servers a worker, most.",
    )
    upstream_head_timeout: float = Field(
        60.0, alias="HX_UPSTREAM_HEAD_TIMEOUT", gt=0, description="Seconds until a model's answer must begin."
    )
    upstream_idle_timeout: float = Field(
        60.0, alias="HX_UPSTREAM_IDLE_TIMEOUT", gt=0, description="Seconds a model's answer may pause."
    )
    upstream_total_timeout: float = Field(
        1800.0,
        alias="HX_UPSTREAM_TOTAL_TIMEOUT",
        gt=0,
        description="Seconds a model's answer may take in all.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller only: :func:`load_settings` reads environment and files, and knows which."""
        return (init_settings,)

    @field_validator("admin_key")
    @classmethod
    def _admin_key_is_strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_admin_key(value.get_secret_value())
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            ipaddress.ip_network(entry, strict=False)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            scheme, separator, host = entry.partition("://")
            if scheme not in ("http", "https") or not separator or not host or "/" in host:
                raise ValueError(f"{entry!r} is not an origin like https://app.example.org")
        return value

    @field_validator("db_guard_prefixes")
    @classmethod
    def _prefixes_are_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not entry.startswith("/") or entry.endswith("/"):
                raise ValueError(f"{entry!r} must start with '/' and not end with one")
        return value

    @field_validator("litellm_base_url", "qdrant_url", "otlp_endpoint", "otlp_traces_endpoint", "budget_webhook_url")
    @classmethod
    def _url_is_http(cls, value: str | None) -> str | None:
        if value and value != NOT_CONFIGURED and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value

    @field_validator("public_url")
    @classmethod
    def _url_is_bare(cls, value: str | None) -> str | None:
        if value is not None:
            check_address(value)
        return value

    @property
    def trusted_networks(self) -> tuple[IPNetwork, ...]:
        """``trusted_proxies`` as networks."""
        return tuple(ipaddress.ip_network(entry, strict=False) for entry in self.trusted_proxies)

    @property
    def serve_demo_models(self) -> bool:
        """Whether the demo models are served."""
        return self.model_config_file is None if self.demo is None else self.demo


class LoadedSettings:
    """Settings with where each came from: ``sources`` maps a field to ``environment``, a file or ``default``."""

    def __init__(self, settings: Settings, sources: Mapping[str, str], warnings: Sequence[str]) -> None:
        self.settings = settings
        self.sources = dict(sources)
        self.warnings = tuple(warnings)


def load_settings(
    environ: Mapping[str, str] | None = None,
    *,
    env_files: Sequence[Path] = (),
    overrides: Mapping[str, object] | None = None,
) -> LoadedSettings:
    """Read settings: ``overrides`` by field name, then ``environ`` (the process's own), credentials, ``env_files``.

    Raises :class:`SettingsError` with one sentence for each bad value.
    """
    environ = os.environ if environ is None else environ
    known = {variable for name in Settings.model_fields for variable in variables_of(name)} | OTHER_VARIABLES
    try:
        layers = read_layers(environ, env_files, known)
    except SourceProblem as problem:
        raise SettingsError(str(problem)) from problem
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for name in Settings.model_fields:
        for variable in variables_of(name):
            origin = next(((label, layer[variable]) for label, layer in layers if variable in layer), None)
            if origin is not None:
                sources[name], values[name] = f"{origin[0]} ({variable})", origin[1]
                break
        else:
            sources[name] = "default"
    merged = {key: value for _, layer in reversed(layers) for key, value in layer.items()}
    parts = database_from_parts(merged, variables_of("pg_url"), values, sources)
    warnings = [*parts, *misspelt(merged, known)]
    for name, value in (overrides or {}).items():
        values[name], sources[name] = value, "command line"
    try:
        settings = Settings.model_validate(values, by_name=True, by_alias=False)
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(item) for item in error.errors())) from None
    _check_together(settings)
    return LoadedSettings(settings, sources, warnings)


def variables_of(field: str) -> tuple[str, ...]:
    """Return the environment variables of ``field``, the one that wins first."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias),)


def _sentence(error: object) -> str:
    assert isinstance(error, dict)
    field = str(error["loc"][0])
    variable = variables_of(field)[0]
    reason = str(error["msg"]).removeprefix("Value error, ")
    secret = field in (
        "admin_key",
        "pg_url",
        "redis_url",
        "qdrant_api_key",
        "litellm_api_key",
        "openai_api_key",
        "otlp_headers",
        "logfire_token",
        "budget_webhook_secret",
    )
    # An address may hold a credential.
    secret = secret or "@" in str(error["input"])
    shown = "" if secret else f" is {error['input']!r}:"
    return f"{variable}{shown} {reason}."


def _check_together(settings: Settings) -> None:
    problems = []
    if (settings.tls_cert is None) != (settings.tls_key is None):
        problems.append("HX_TLS_CERT and HX_TLS_KEY must be given together.")
    for variable, path in (
        ("HX_TLS_CERT", settings.tls_cert),
        ("HX_TLS_KEY", settings.tls_key),
        ("HX_MODEL_CONFIG", settings.model_config_file),
    ):
        if path is not None and not path.is_file():
            problems.append(f"{variable}: there is no file {str(path)!r}.")
    if settings.pg_min_connections > settings.pg_max_connections:
        problems.append("PG_MIN_CONNECTIONS is above PG_MAX_CONNECTIONS.")
    if not settings.embedded:
        missing = [
            name
            for name, value in (
                ("PG_URL", settings.pg_url),
                ("REDIS_URL", settings.redis_url),
                ("QDRANT_URL", settings.qdrant_url),
            )
            if value is None
        ]
        if missing:
            problems.append(
                f"HX_EMBEDDED=off and no {', '.join(missing)}: give the URL, or `none` to run without that store."
            )
    if problems:
        raise SettingsError("\n".join(problems))
