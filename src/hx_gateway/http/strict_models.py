"""What bodies and parameters of FastAPI routes are made of: nothing unknown, no default that could be sent."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A body or a part of one: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")

    def given(self) -> dict[str, Any]:
        """Return the fields that were sent, as they were read: what was left out is not among them."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def _absent() -> Any:
    """Stand for a field that was not sent: what is not set is not handed on."""
    return None


def optional(**more: Any) -> Any:
    """Return a field that may be left out, and that has no default that a reader of the document could send."""
    return Field(default_factory=_absent, **more)
