"""Names to addresses, behind a protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Protocol

from hx_gateway.services.egress.addresses import IPAddress


class Resolver(Protocol):
    """Looks names up. Whatever it answers is checked; it need not be trusted."""

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        """Return all A and AAAA of ``host``. Raises ``OSError`` where there are none, or nobody could say."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class SystemResolver:
    """getaddrinfo(3) in threads of its own.

    A look-up cannot be cancelled: names whose servers hang fill these threads, and none that files or others need.
    """

    def __init__(self, *, threads: int = 16) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="egress-dns")

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        """Return all addresses that the system knows, those of its hosts file too. Raises ``OSError``."""
        look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))

    def close(self) -> None:
        """Take no more look-ups; those running end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
