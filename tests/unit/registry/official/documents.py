"""Documents of servers for tests: one that nothing is wrong with, and others made of it."""

from __future__ import annotations

from typing import Any

from hx_gateway.registry.official.schema import SCHEMA_URL

NPM = {"registryType": "npm", "identifier": "@acme/mail", "version": "1.0.0", "transport": {"type": "stdio"}}
IMAGE = {"registryType": "oci", "identifier": "images.example.com/acme/mail:1.0.0", "transport": {"type": "stdio"}}
BUNDLE = {
    "registryType": "mcpb",
    "identifier": "https://github.com/acme/mail/releases/download/v1/mail.mcpb",
    "fileSha256": "0" * 64,
    "transport": {"type": "stdio"},
}
REMOTE = {"type": "streamable-http", "url": "https://mail.example.com/mcp"}


def server(**more: Any) -> dict[str, Any]:
    """Return a document; fields that are ``None`` are left out."""
    document = {
        "$schema": SCHEMA_URL,
        "name": "com.example/mail",
        "description": "Reads and sends mail.",
        "version": "1.0.0",
        "remotes": [REMOTE],
        **more,
    }
    return {name: value for name, value in document.items() if value is not None}
