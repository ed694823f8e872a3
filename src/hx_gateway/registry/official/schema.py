"""The form of ``server.json``, schema 2025-12-11 (https://static.modelcontextprotocol.io/schemas/2025-12-11/)."""

from __future__ import annotations

import re
from typing import Final

from hx_gateway.registry.official.shapes import Anything, Flag, ListOf, MapOf, Object, OneOf, Shape, Text

SCHEMA_URL: Final = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
MAX_NAME_CHARS = 200
MAX_TITLE_CHARS = 100
MAX_DESCRIPTION_CHARS = 100
MAX_ICON_CHARS = 255
# Python and PostgreSQL read both alike.
NAMESPACE = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
LOCAL_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
NAME_PATTERN = f"^{NAMESPACE}/{LOCAL_NAME}$"
STDIO, STREAMABLE_HTTP, SSE = "stdio", "streamable-http", "sse"

_ANY = Text()
_SOME = Text(least=1)
URL_TEMPLATE = re.compile(r"https?://\S+|\{[A-Za-z_][A-Za-z0-9_]*\}\S*")
_URL = Text(
    pattern=URL_TEMPLATE,
    says="a URL that begins with http:// or https://, or with a {variable}",
)
_INPUT_MEMBERS: dict[str, Shape] = {
    "description": _ANY,
    "isRequired": Flag(),
    "format": Text(choices=("string", "number", "boolean", "filepath")),
    "value": _ANY,
    "isSecret": Flag(),
    "default": _ANY,
    "placeholder": _ANY,
    "choices": ListOf(_ANY),
}
INPUT = Object(name="Input", members=_INPUT_MEMBERS)
_WITH_VARIABLES: dict[str, Shape] = {**_INPUT_MEMBERS, "variables": MapOf(INPUT)}
KEY_VALUE = Object(name="KeyValueInput", members={**_WITH_VARIABLES, "name": _SOME}, required=("name",))
_POSITIONAL = Object(
    name="PositionalArgument",
    members={**_WITH_VARIABLES, "type": _ANY, "valueHint": _ANY, "isRepeated": Flag()},
    required=("type",),
)
_NAMED = Object(
    name="NamedArgument",
    members={**_WITH_VARIABLES, "type": _ANY, "name": _SOME, "isRepeated": Flag()},
    required=("type", "name"),
)
_ARGUMENT = OneOf("Argument", {"positional": _POSITIONAL, "named": _NAMED})
_STDIO = Object(name="StdioTransport", members={"type": _ANY, "url": _ANY}, required=("type",))


def _http(name: str, **more: Shape) -> Object:
    members: dict[str, Shape] = {"type": _ANY, "url": _URL, "headers": ListOf(KEY_VALUE), **more}
    return Object(name=name, members=members, required=("type", "url"))


_LOCAL_TRANSPORT = OneOf(
    "LocalTransport",
    {STDIO: _STDIO, STREAMABLE_HTTP: _http("StreamableHttpTransport"), SSE: _http("SseTransport")},
)
REMOTE = OneOf(
    "RemoteTransport",
    {
        STREAMABLE_HTTP: _http("StreamableHttpTransport", variables=MapOf(INPUT)),
        SSE: _http("SseTransport", variables=MapOf(INPUT)),
    },
)
PACKAGE = Object(
    name="Package",
    members={
        "registryType": _SOME,
        "registryBaseUrl": _ANY,
        "identifier": _SOME,
        "version": _SOME,
        "fileSha256": Text(pattern=re.compile("[a-f0-9]{64}"), says="64 hexadecimal digits in lower case"),
        "runtimeHint": _ANY,
        "transport": _LOCAL_TRANSPORT,
        "runtimeArguments": ListOf(_ARGUMENT),
        "packageArguments": ListOf(_ARGUMENT),
        "environmentVariables": ListOf(KEY_VALUE),
    },
    required=("registryType", "identifier", "transport"),
)
ICON = Object(
    name="Icon",
    members={
        "src": Text(least=1, most=MAX_ICON_CHARS),
        "mimeType": Text(choices=("image/png", "image/jpeg", "image/jpg", "image/svg+xml", "image/webp")),
        "sizes": ListOf(Text(pattern=re.compile("[0-9]+x[0-9]+|any"), says="a size, as 48x48, or any")),
        "theme": Text(choices=("light", "dark")),
    },
    required=("src",),
)
REPOSITORY = Object(
    name="Repository",
    members={"url": _SOME, "source": _SOME, "id": _ANY, "subfolder": _ANY},
    required=("url", "source"),
)
SERVER = Object(
    name="ServerDetail",
    members={
        "$schema": _SOME,
        "name": Text(
            least=3,
            most=MAX_NAME_CHARS,
            pattern=re.compile(NAME_PATTERN),
            says="a namespace and a name with one slash between them, as com.example/mail, both beginning and ending "
            "with a letter or a digit",
        ),
        "title": Text(least=1, most=MAX_TITLE_CHARS, pattern=re.compile(r".*\S.*", re.DOTALL), says="more than spaces"),
        "description": Text(least=1, most=MAX_DESCRIPTION_CHARS),
        "version": _ANY,
        "websiteUrl": _ANY,
        "repository": REPOSITORY,
        "icons": ListOf(ICON),
        "packages": ListOf(PACKAGE),
        "remotes": ListOf(REMOTE),
        "_meta": Anything(),
    },
    required=("name", "description", "version"),
)
