"""Several worker processes behind one listening socket, supervised by the process that was started."""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from hx_gateway.app import build_app
from hx_gateway.cli.server import BACKLOG, calm_collector, make_server
from hx_gateway.log import configure_logging
from hx_gateway.settings import Settings
from hx_gateway.telemetry import forget_process

PR_SET_PDEATHSIG = 1


class Worker(Process):
    """One worker: builds its own application and server from the settings it was handed."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], settings: Settings) -> None:
        self._settings = settings
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Run in the child: end when the parent does, whatever ended it."""
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        configure_logging(level=self._settings.log_level, style=self._settings.log_format)
        self._server = make_server(self._settings, build_app(self._settings))
        calm_collector()
        super().target(sockets)


class Supervisor(Multiprocess):
    """Keeps the workers alive, and with them whatever ``check`` looks after."""

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        settings: Settings,
        check: Callable[[], None],
    ) -> None:
        super().__init__(config, sockets)
        self._settings = settings
        self._check = check

    def init_processes(self) -> None:
        """Start the workers."""
        for _ in range(self.processes_num):
            self.processes.append(self._started())

    def keep_subprocess_alive(self) -> None:
        """Replace workers that ended or hang; called twice a second."""
        self._check()
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set() or process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            if process.pid is not None:
                forget_process(process.pid)
            if process.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            self.processes[index] = self._started()

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets, self._settings)
        worker.start()
        return worker


def serve_with_workers(settings: Settings, listener: socket.socket, check: Callable[[], None]) -> None:
    """Serve until a signal says stop; every worker drains."""
    listener.listen(BACKLOG)
    # Only what the supervisor itself reads: each worker makes the configuration of its own server.
    config = uvicorn.Config("hx_gateway.asgi:app", workers=settings.workers, log_config=None)
    Supervisor(config, [listener], settings, check).run()
