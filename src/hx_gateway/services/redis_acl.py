"""The rights that the gateway needs of a Redis or Valkey, as a line of its access control list."""

from __future__ import annotations

import hashlib
import re

# Everything of the gateway's is called so: keys, and the channel of changes.
KEYS = "hx:*"
# What connections send, what Python sends, and what the scripts call; tests compare them with the source.
COMMANDS = (
    *("hello", "ping", "select", "info"),
    *("evalsha", "script|load", "mget", "multi", "exec", "discard", "publish", "subscribe"),
    *("set", "get", "del", "unlink", "expire", "pexpire", "pttl", "time"),
    *("hget", "hset", "hmget", "hdel", "hexists", "hincrby", "hscan"),
    *("zadd", "zcard", "zrange", "zrangebyscore", "zrem", "zremrangebyscore", "zscore"),
)
# LiteLLM names its keys by hashes, and asks for more with each version: all but what is for administrators.
_BESIDE_LITELLM = "~* &* +@all -@admin -@dangerous"
_NAME = re.compile(r"[!-~]+")


class AclProblem(Exception):
    """A user that no line can be written for; the text says why."""


def acl_line(user: str, password: str, *, litellm: bool = False) -> str:
    """Return the line for an ``aclfile`` or ``redis.conf``; what follows ``user`` also for ``ACL SETUSER``.

    It holds the password's SHA-256. ``litellm``: a LiteLLM logs in as the same user. Redis 6.2 or newer.
    Raises :class:`AclProblem`.
    """
    if user == "default":
        raise AclProblem("the user 'default' is everybody's who gives no name: name another one.")
    if _NAME.fullmatch(user) is None:
        raise AclProblem(f"{user!r} is no name for a user of Redis: give one without spaces.")
    digest = hashlib.sha256(password.encode()).hexdigest()
    rules = " ".join(f"+{command}" for command in COMMANDS)
    granted = f"{_BESIDE_LITELLM} {rules}" if litellm else f"~{KEYS} &{KEYS} -@all {rules}"
    return f"user {user} reset resetchannels on #{digest} {granted}"
