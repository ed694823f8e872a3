"""Lines of a server of MCP are read whole, in whatever pieces they come."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hx_gateway.registry.probing.conversation import MAX_BYTES, Silent, ask

ANSWER = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": ["2026-07-28"], "capabilities": {}}})


async def send(_: bytes) -> None:
    pass


async def asked(pieces: Iterator[bytes]) -> bool:
    async def read() -> bytes:
        return next(pieces, b"")

    return (await ask(send, read, seconds=60.0)).ok


@pytest.mark.parametrize("size", [1, 7, 64 * 1024])
async def test_an_answer_among_other_lines_is_found_in_pieces_of_any_size(size: int) -> None:
    text = f"starting\n\n{{}}\n{ANSWER}\nmore".encode()
    assert await asked(text[at : at + size] for at in range(0, len(text), size))


async def test_a_line_without_an_end_is_read_as_far_as_lines_are() -> None:
    given = 0

    def pieces() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x"

    with pytest.raises(Silent) as silent:
        await asked(pieces())
    assert (silent.value.spoke, given) == (True, MAX_BYTES + 1)
