"""What a probe is told of a service, and where that leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from hx_gateway.db.models.health_config import HealthConfig, health_config
from hx_gateway.db.models.registry_items import RegistryItem, ServiceProtocol

STDIO_HOST = "stdio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A service as its probe sees it: the fields of the item."""

    protocol: ServiceProtocol
    endpoint: str | None = None
    location: str | None = None
    port: int | None = None
    health_check_url: str | None = None
    auto_start: bool = False
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, item: RegistryItem) -> Target:
        """Return what a probe is told of an item."""
        return cls(**{each.name: getattr(item, each.name) for each in fields(cls)})

    @property
    def health(self) -> HealthConfig:
        """The settings in ``config.health``."""
        return health_config(self.config)

    @property
    def url(self) -> str | None:
        """Where it is probed, as a URL; ``None`` where the item does not say, and for STDIO."""
        place = self.endpoint or self.location
        match self.protocol:
            case ServiceProtocol.HTTP:
                return self.health_check_url or self.endpoint
            case ServiceProtocol.WEBSOCKET:
                return self.endpoint
            case ServiceProtocol.TCP:
                return _tcp_url(place, self.port)
            case ServiceProtocol.UNIX_SOCKET:
                return f"unix://{place}" if place and place.startswith("/") else place
            case ServiceProtocol.STDIO:
                return None

    @property
    def host(self) -> str:
        """What shares one host's slots: a host and port as they are written, a socket's path, or all of STDIO."""
        if self.protocol is ServiceProtocol.STDIO:
            return STDIO_HOST
        url = self.url or ""
        try:
            parts = urlsplit(url)
        except ValueError:
            return url
        return parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2].lower()


def _tcp_url(place: str | None, port: int | None) -> str | None:
    if not place or "://" in place:
        return place
    return f"tcp://{place}" if port is None else f"tcp://{place}:{port}"
