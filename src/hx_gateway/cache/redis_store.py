"""Answers in Redis, for all workers: a slow or dead server costs a request a moment, and never its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from hx_gateway.cache.answers import StoredAnswer, decode_answer, encode_answer
from hx_gateway.cache.store import BUDGET_SECONDS, CacheAway, Found, Question
from hx_gateway.kit.breaker import CircuitBreaker, CircuitOpen
from hx_gateway.services.base import DependencyError
from hx_gateway.services.redis_pipe import Part, RedisPipe, Script

# How many names of answers are read, and forgotten, in one step of a purge.
PURGED_AT_ONCE = 200
# After this many failures the server is left alone for a while, but for one request a second that tries again.
FAILURES, FAILURES_SECONDS, REST_SECONDS = 3, 10.0, 1.0
_FOLDER = files("hx_gateway.cache") / "scripts"


def _script(name: str) -> Script:
    return Script(f"cache_{name}", (_FOLDER / f"{name}.lua").read_text())


FIND, KEEP, DROP = (_script(name) for name in ("find", "keep", "drop"))


class RedisCache:
    """An ``AnswerCache`` in Redis 6.2 or newer, or Valkey.

    Everything of a tenant is under its own hash tag, and below ``max_bytes``. An index of names beside the answers says
    which are there: a purge reads it, and an answer that it does not know is not given, so that none outlives a purge
    whose index was lost. ``pipe`` is its own: answers are long, and others must not wait behind them. A look-up
    is given up after ``seconds``; what is kept is waited for as the pipe does, and by no request.
    """

    kind = "exact"

    def __init__(
        self,
        pipe: RedisPipe,
        *,
        max_bytes: int,
        healthy: Callable[[], bool],
        seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._pipe = pipe
        self._max_bytes = max_bytes
        self._healthy = healthy
        self._seconds = seconds
        # A server that is full still answers: what cannot be kept must not keep from finding.
        self._breakers = {script.name: _breaker() for script in (FIND, KEEP)}

    async def find(self, question: Question) -> Found | None:
        """Return the answer that is kept under the question's digest. Raises :class:`CacheAway`."""
        prefix, (index, _) = _names(question.tenant_id)
        name = question.digest.hex()
        data = await self._run(FIND, (prefix + name, index), (name,), within=self._seconds)
        answer = decode_answer(data) if data is not None else None
        if answer is None or (answer.partition, answer.digest) != (question.partition, question.digest):
            return None
        return Found(answer)

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        """Keep an answer; those of the tenant that end first make room. Raises :class:`CacheAway`."""
        prefix, keys = _names(question.tenant_id)
        about = f"{answer.key_id}|{answer.model}"
        kept = (question.digest.hex(), encode_answer(answer), ttl_seconds * 1000, about, self._max_bytes)
        await self._run(KEEP, keys, (prefix, *kept))

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Forget answers of a tenant. Raises ``DependencyError``: some may be forgotten by then."""
        prefix, keys = _names(tenant_id)
        cursor, purged = b"0", 0
        while True:
            cursor, pairs = await self._pipe.command("HSCAN", keys[0], cursor, "COUNT", PURGED_AT_ONCE)
            names = [name for name, about in zip(pairs[::2], pairs[1::2], strict=True) if _is_of(about, key_id, model)]
            for start in range(0, len(names), PURGED_AT_ONCE):
                some = names[start : start + PURGED_AT_ONCE]
                purged += await self._pipe.run(DROP, keys, (prefix, *some))
            if cursor == b"0":
                return purged

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pipe.close()

    async def _run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Part], *, within: float | None = None
    ) -> Any:
        if not self._healthy():
            raise CacheAway
        try:
            with self._breakers[script.name].attempt():
                return await self._pipe.run(script, keys, arguments, within=within)
        except (CircuitOpen, DependencyError) as error:
            raise CacheAway from error


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(
        failure_threshold=FAILURES, window_seconds=FAILURES_SECONDS, open_seconds=REST_SECONDS, success_threshold=1
    )


def _names(tenant_id: str) -> tuple[str, tuple[str, str]]:
    """Return the prefix of a tenant's answers, and the names of their index and of their ends."""
    prefix = f"hx:{{{tenant_id}}}:cache:"
    return f"{prefix}a:", (f"{prefix}index", f"{prefix}ends")


def _is_of(about: bytes, key_id: str | None, model: str | None) -> bool:
    """Return whether an entry of the index, ``bytes|key|model``, is of a key and a model; the sum of bytes is not."""
    _, separator, rest = about.partition(b"|")
    key, _, name = rest.partition(b"|")
    return bool(separator) and key_id in (None, key.decode()) and model in (None, name.decode())
