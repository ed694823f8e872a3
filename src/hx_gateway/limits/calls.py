"""What the pipeline tells the meter of a call: that it wants to begin, how it ended, or why it never began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

import msgspec

from hx_gateway.allowances import Allowance

UsageSource = Literal["provider", "estimate", "none"]

CANONICAL_CHARS = 36


class CallAsk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One model call that wants to begin.

    ``call_id`` is a UUID that we made, never a client's. ``tokens`` is an estimate of prompt and answer, ``cost_nano``
    an upper bound in nano-dollars at the price that is named here: a price that changes meanwhile changes nothing.
    ``allowance`` is ``None`` for a caller that nothing is counted for. With ``shadow`` nothing is refused.
    """

    call_id: str
    request_id: str
    tenant_id: str
    key_id: str
    model: str
    requested_model: str
    operation: str
    route: str | None = None
    allowance: Allowance | None = None
    team_id: str | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()
    stream: bool = False
    tokens: int = 0
    cost_nano: int = 0
    price_source: str | None = None
    price_version: str | None = None
    input_pico: int | None = None
    output_pico: int | None = None
    shadow: bool = False

    def __post_init__(self) -> None:
        """Bring the id into the form that the ledger has it in. Raises ``ValueError`` for one that is no UUID."""
        if len(self.call_id) != CANONICAL_CHARS:
            msgspec.structs.force_setattr(self, "call_id", str(UUID(self.call_id)))


class CallDone(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How an admitted call ended, whatever way it did. ``cost_nano`` is what is charged, 0 when nothing was sent.

    ``usage_source`` ``estimate`` or ``none``: the provider did not say what was used; a 0 that it said is a 0.
    """

    status: int
    ending: str
    error_code: str | None = None
    message: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    usage_source: UsageSource = "none"
    cost_nano: int = 0
    duration_ms: float = 0.0
    attempts: int = 0
    upstream: str | None = None
    provider: str | None = None
    model: str | None = None
    cache: str | None = None


class CallRefused(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that never began. It is kept among the errors; nobody is charged for it."""

    call_id: str
    request_id: str
    tenant_id: str
    key_id: str
    operation: str
    requested_model: str
    status: int
    code: str
    message: str
    ending: str = "refused"
    route: str | None = None
    model: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    decision: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring the id into the form that the ledger has it in. Raises ``ValueError`` for one that is no UUID."""
        if len(self.call_id) != CANONICAL_CHARS:
            msgspec.structs.force_setattr(self, "call_id", str(UUID(self.call_id)))
