"""Measures what accounting costs: the same gateway with authentication alone, and with limits, budgets and records.

``python -m benchmarks.accounting`` prints a table and writes JSON; it ends with status 1 where the throughput with
accounting is below what is promised. In each round one gateway without and one with accounting run in turn, in process
and with Redis: their ratios are the figures that hold.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import targets
from benchmarks.figures import cpu_seconds, paired_ratios, read_stat, spread, steal_share
from benchmarks.run import GATEWAY_CORE, LOAD_CORE, load, machine, write_bodies
from benchmarks.targets import OUT, Target
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.services.embedded.valkey import EmbeddedValkey

RESULT = OUT / "accounting.json"
LEAST_RATIO = 0.70
WARM_UP_SECONDS = 1.0
# Enough that the gateway's core is not idle while a store, which shares the other core, keeps some of them waiting.
CONNECTIONS = 128
# Far above what a round uses: what is measured is counting, not refusing.
PLENTY = 900_000_000
ACCOUNTED = {
    "limits": {"rpm": PLENTY, "tpm": PLENTY, "max_parallel": 100_000},
    "budgets": [{"limit_usd": 1_000_000, "period": "day"}, {"limit_usd": 8_000_000, "period": "month"}],
}
# Neither the trace of a request nor its record: authentication, and nothing that is kept.
BARE = {"DISABLE_SPEND_LOGS": "true", "DISABLE_ERROR_LOGS": "true"}
CONFIG = """
model_list:
  - model_name: mock
    litellm_params:
      model: openai/mock
      api_base: http://127.0.0.1:{port}/v1
      api_key: made-up-for-the-benchmark
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
"""


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    targets.build_native()
    # The stores are nobody's cost here: they run where the load comes from.
    os.sched_setaffinity(0, {LOAD_CORE})
    results: dict[str, Any] = {"machine": machine(), "options": vars(options)}
    began = read_stat()
    console = Console()
    measured: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="hxbench-") as folder,
        Progress(console=console, transient=True) as progress,
        ExitStack() as stack,
    ):
        os.chmod(folder, 0o711)
        server = EmbeddedPostgres(Path(folder) / "postgres", notify=progress.console.print)
        server.start()
        stack.callback(server.stop)
        valkey = EmbeddedValkey(Path(folder) / "valkey", notify=progress.console.print)
        valkey.start()
        stack.callback(valkey.stop)
        body = write_bodies(Path(folder))["unary"]
        kinds = {"in process": "none", "with Redis": valkey.url}
        work = progress.add_task("measuring", total=options.rounds * len(kinds) * 2)
        for _ in range(options.rounds):
            for kind, redis_url in kinds.items():
                for name, accounted in ((f"authentication, {kind}", False), (f"accounting, {kind}", True)):
                    progress.update(work, description=f"measuring {name}")
                    stores = {"PG_URL": server.url, "REDIS_URL": redis_url}
                    measure(measured.setdefault(name, {}), stores, body, options.seconds, accounted=accounted)
                    progress.advance(work)
    results["measured"] = measured
    results["ratios"] = {
        kind: asdict(
            spread(
                paired_ratios(
                    measured[f"accounting, {kind}"]["per_second"], measured[f"authentication, {kind}"]["per_second"]
                )
            )
        )
        for kind in kinds
    }
    results["steal"] = steal_share(began, read_stat())
    OUT.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2))
    report(console, results)
    sys.exit(0 if passed(results) else 1)


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the median counts")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--quick", action="store_true", help="one round of a second: to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    return options


def measure(
    figures: dict[str, list[float]], stores: Mapping[str, str], body: Path, seconds: float, *, accounted: bool
) -> None:
    """Add one round: requests a second at saturation, CPU time a request, errors."""
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.mock(LOAD_CORE))
        target = stack.enter_context(gateway(upstream, {**stores, **({} if accounted else BARE)}, accounted))
        load(target, body, seconds=WARM_UP_SECONDS, connections=CONNECTIONS)
        before = cpu_seconds(target.pids)
        run = load(target, body, seconds=seconds, connections=CONNECTIONS)
        used = cpu_seconds(target.pids) - before
    figures.setdefault("per_second", []).append(run["per_second"])
    figures.setdefault("cpu_us", []).append(used / max(1, run["requests"]) * 1e6)
    figures.setdefault("errors", []).append(run["errors"])


@contextmanager
def gateway(upstream: Target, environ: Mapping[str, str], accounted: bool) -> Iterator[Target]:
    """Run a gateway on its own core and give a target with a key of a member, made for it."""
    port, admin_key = targets.free_port(), secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="hxbench-") as base, (Path(base) / "server.log").open("wb") as log:
        config = Path(base) / "models.yaml"
        config.write_text(CONFIG.format(port=upstream.port))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HX_", "WRAPPER_", "PG_"))}
        ours = {"QDRANT_URL": "none", "HX_DATA_DIR": base, "HX_MODEL_CONFIG": str(config), "HX_ADMIN_KEY": admin_key}
        ours |= {"WRAPPER_PORT": str(port), "HX_LOG_FORMAT": "json", "HX_DRAIN_SECONDS": "2", "HX_TRACE_SAMPLE": "0"}
        command = [sys.executable, "-m", "hx_gateway", "serve"]
        with targets.process(command, GATEWAY_CORE, env={**kept, **ours, **environ}, stdout=log, stderr=log) as child:
            targets.wait_for(lambda: targets.ready(port))
            key = make_key(port, admin_key, ACCOUNTED if accounted else {})
            yield Target("gateway", port, (child.pid,), (f"Authorization: Bearer {key}",))


def make_key(port: int, admin_key: str, fields: Mapping[str, object]) -> str:
    """Return the secret of a new key."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/keys",
        data=json.dumps({"name": "benchmark", **fields}).encode(),
        headers={"authorization": f"Bearer {admin_key}", "content-type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        made: dict[str, Any] = json.load(answer)
    return str(made["key"])


def passed(results: Mapping[str, Any]) -> bool:
    """Return whether no request failed and the ratios are what is promised."""
    errors = sum(sum(figures["errors"]) for figures in results["measured"].values())
    return not errors and all(ratio["median"] >= LEAST_RATIO for ratio in results["ratios"].values())


def report(console: Console, results: Mapping[str, Any]) -> None:
    """Print the table."""
    info = results["machine"]
    console.print(f"{info['cpu']}, {info['cores']} cores, Python {info['python']}, commit {info['commit']}")
    table = Table("gateway", "requests/s", "CPU µs/request", "errors")
    for name, figures in results["measured"].items():
        rate, cpu = spread(figures["per_second"]), spread(figures["cpu_us"])
        table.add_row(
            name,
            f"{rate.median:,.0f} ({rate.least:,.0f} to {rate.greatest:,.0f})",
            f"{cpu.median:,.0f} ({cpu.least:,.0f} to {cpu.greatest:,.0f})",
            f"{sum(figures['errors']):.0f}",
        )
    console.print(table)
    for kind, ratio in results["ratios"].items():
        shown = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
        console.print(f"accounting, {kind}: {shown} of the throughput with authentication alone; least: {LEAST_RATIO}")
    console.print(f"taken by the hypervisor: {results['steal']:.1%}")


if __name__ == "__main__":
    main()
