"""What services are called on the official registry's API, and which service a name there means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from hx_gateway.registry.official.schema import LOCAL_NAME, MAX_NAME_CHARS, NAME_PATTERN, NAMESPACE

DEFAULT_NAMESPACE = "internal.hx-gateway"
# PostgreSQL reads these too.
PLAIN_PATTERN = f"^{LOCAL_NAME}$"
ID_PATTERN = r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
_NAME, _PLAIN, _ID = re.compile(NAME_PATTERN), re.compile(PLAIN_PATTERN), re.compile(ID_PATTERN)
_NAMESPACE = re.compile(NAMESPACE)
MAX_NAMESPACE_CHARS = 100


@dataclass(frozen=True, slots=True)
class Naming:
    """Names with a ``namespace`` for services whose own names have none.

    A service that is called like a server is called so: ``com.example/mail``. A plain name gets the namespace before
    it: ``mail`` is ``internal.hx-gateway/mail``. Every other is named by its id there. No two services of a tenant
    ever get the same name, whatever they are called, and each name leads back.
    """

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        """Refuse what is no namespace."""
        if _NAMESPACE.fullmatch(self.namespace) is None or len(self.namespace) > MAX_NAMESPACE_CHARS:
            raise ValueError(f"{self.namespace!r} is no namespace: give a reversed domain, as com.example")

    @property
    def prefix(self) -> str:
        """What names with the namespace begin with."""
        return f"{self.namespace}/"

    @property
    def most_plain_chars(self) -> int:
        """How long a plain name may be that gets the namespace."""
        return MAX_NAME_CHARS - len(self.prefix)

    def server_name(self, item_name: str, item_id: UUID | str) -> str:
        """Return what a service is called as a server."""
        is_named_so = _NAME.fullmatch(item_name) is not None and len(item_name) <= MAX_NAME_CHARS
        if is_named_so and not item_name.lower().startswith(self.prefix.lower()):
            return item_name
        plain = _PLAIN.fullmatch(item_name) is not None and _ID.fullmatch(item_name) is None
        if plain and len(item_name) <= self.most_plain_chars:
            return self.prefix + item_name
        return f"{self.prefix}{item_id}"

    def item_of(self, server_name: str) -> str | UUID | None:
        """Return the name of the service that a server's name means, or its id; ``None`` where no service has it.

        Whoever looks it up compares :meth:`server_name` of what was found: services' names are told apart without case.
        """
        if _NAME.fullmatch(server_name) is None or len(server_name) > MAX_NAME_CHARS:
            return None
        if not server_name.lower().startswith(self.prefix.lower()):
            return server_name
        local = server_name[len(self.prefix) :]
        if not server_name.startswith(self.prefix):
            return None
        return UUID(local) if _ID.fullmatch(local) else local
