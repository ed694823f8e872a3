"""Headers that routes of several planes take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

REPLAY_HEADER = "x-hx-idempotent-replay"
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[ -~]{1,255}$",
        description="Sent again with the same body, the first answer comes again; secrets do not.",
        examples=["order-4711-key"],
    ),
]
