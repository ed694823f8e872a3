"""The keys of LiteLLM's ``config.yaml`` that wiring sets and unwiring takes away."""

from __future__ import annotations

from dataclasses import dataclass

from hx_gateway.wiring.yaml_edit import Scalar, delete_key, get_value, set_value

# The one that requirements-litellm.lock pins; a test holds the two together.
LITELLM_VERSION = "1.108.7"

Key = tuple[str, ...]

DATABASE = "os.environ/DATABASE_URL"
REDIS = "os.environ/REDIS_URL"
CACHE: Key = ("litellm_settings", "cache")
CACHE_PARAMS: Key = ("litellm_settings", "cache_params")
CACHE_TYPE: Key = (*CACHE_PARAMS, "type")
WIRED: tuple[tuple[Key, Scalar], ...] = (
    (("general_settings", "database_url"), DATABASE),
    (("general_settings", "disable_spend_logs"), False),
    (("general_settings", "disable_error_logs"), False),
    (("litellm_settings", "database_url"), DATABASE),
    (("litellm_settings", "redis_url"), REDIS),
    (("litellm_settings", "proxy_logging"), True),
    (("litellm_settings", "store_db_logs"), True),
    (CACHE, True),
    (CACHE_TYPE, "redis"),
)
UNWIRED: tuple[tuple[Key, Scalar], ...] = (
    (("general_settings", "disable_spend_logs"), True),
    (("general_settings", "disable_error_logs"), True),
)
REMOVED: tuple[Key, ...] = (
    ("general_settings", "database_url"),
    ("litellm_settings", "database_url"),
    ("litellm_settings", "redis_url"),
)
# Set for programs that read this file beside LiteLLM.
NOT_READ: tuple[Key, ...] = (
    ("litellm_settings", "database_url"),
    ("litellm_settings", "redis_url"),
    ("litellm_settings", "proxy_logging"),
    ("litellm_settings", "store_db_logs"),
)
# With one of these LiteLLM asks another Redis than the one in ``REDIS_URL``.
OTHER_TARGETS = ("url", "host", "port", "password", "redis_startup_nodes", "sentinel_nodes")


@dataclass(frozen=True, slots=True)
class Edited:
    """A changed text, the keys that were changed, and what the operator should know."""

    text: str
    changed: tuple[str, ...]
    notes: tuple[str, ...] = ()


def wired(text: str) -> Edited:
    """Return ``text`` with every key of :data:`WIRED`. Raises ``YamlProblem``."""
    changed = []
    for key, value in WIRED:
        new = set_value(text, key, value)
        if new != text:
            changed.append(".".join(key))
        text = new
    not_read = ", ".join(".".join(key) for key in NOT_READ)
    notes = [f"LiteLLM {LITELLM_VERSION} does not read {not_read}: other programs do"]
    notes += [
        f"{'.'.join(CACHE_PARAMS)}.{name}: LiteLLM prefers it to REDIS_URL; take it out"
        for name in OTHER_TARGETS
        if get_value(text, (*CACHE_PARAMS, name)) is not None
    ]
    return Edited(text, tuple(changed), tuple(notes))


def unwired(text: str) -> Edited:
    """Return ``text`` so that LiteLLM runs without a database and without Redis. Raises ``YamlProblem``."""
    changed = []
    for key, value in UNWIRED:
        new = set_value(text, key, value)
        if new != text:
            changed.append(".".join(key))
        text = new
    removed, notes = _removed_cache(text)
    for key in (*REMOVED, *removed):
        new = delete_key(text, key)
        if new != text:
            changed.append(".".join(key))
        text = new
    params = get_value(text, CACHE_PARAMS)
    if params is not None and (params.is_null or (params.kind == "mapping" and not params.children)) and removed:
        text = delete_key(text, CACHE_PARAMS)
    return Edited(text, tuple(changed), notes)


def _removed_cache(text: str) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    """Return the keys of a cache in Redis; one of another kind is not ours."""
    kind = get_value(text, CACHE_TYPE)
    if kind is None:
        return (CACHE,), ()
    if kind.text == "redis":
        return (CACHE, CACHE_TYPE), ()
    return (), (f"{'.'.join(CACHE_TYPE)} is not redis: the cache is left as it is",)
