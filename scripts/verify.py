"""Runs the counts that claims rest on, one step after the other, and writes what was seen to docs/verification.md.

Steps that passed are kept in .state/ for the code below src/, and on the page: a run that was interrupted, or failed
for a test's sake, goes on where it stopped, in another clone too. The page names the commit, the day and the machine
that each step ran on.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".state" / "verify.json"
PAGE = ROOT / "docs" / "verification.md"
SEED = 20261124
EXAMPLES = 2000
SOAK_REQUESTS = 200_000
FAULT_REPEATS = 1
KILLS = 200
OUTAGE_SECONDS = 600
OUTAGE_RATE = 2000
SIMULATION_SEEDS = 100_000
RACES = 100
MACHINE_EXAMPLES = 200
OPENAPI_EXAMPLES = 100
REGISTRY_RACES = 200
FEED_CHANGES = 10_000
FEED_CUTS = 100
BANK_SECONDS = 600
OLDER_BANK_SECONDS = 60
KNOWN_KEY_REQUESTS = 20_000
RECORD_FIGURES = re.compile(r"^(?:killed|outage of) .*$", re.MULTILINE)
BANK_FIGURES = re.compile(r"^bank: .*$", re.MULTILINE)
MEMORY_GROWTH = 1.10
HASH_CHARS = 12
COLUMNS = ("result", "seconds", "commit", "day", "machine")
# How `make test` deals tests out.
PARALLEL = os.environ.get("PARALLEL", "").split()


def main(*only: str) -> None:
    """Run what has not passed yet for this commit, or of that what has one of ``only`` in its name.

    Leave with 1 when a step fails.
    """
    console = Console()
    commit, code = _git("rev-parse", "HEAD"), _git("rev-parse", "HEAD:src")
    state = _load(code)
    steps: dict[str, Callable[[], str]] = {
        "all tests": all_tests,
        f"registry: its document, {OPENAPI_EXAMPLES} examples an operation and caller": registry_document,
        f"registry: {REGISTRY_RACES} races of each kind": registry_races,
        f"registry: {FEED_CHANGES:,} changes by 8 writers, a client cut off {FEED_CUTS} times": registry_feed,
        "registry: 100,000 services": bench_registry,
        "wiring: interrupted at every call": wiring,
        f"budgets: state machine on real stores, {MACHINE_EXAMPLES} examples": machine,
        f"budgets: the last call of a budget, {RACES} races": races,
        f"keys: {KNOWN_KEY_REQUESTS:,} requests while PostgreSQL is away": known_keys,
        "budgets: what accounting costs": bench_accounting,
        f"budgets: bank test, {BANK_SECONDS} s": bank,
        f"budgets: bank test with older stores, {OLDER_BANK_SECONDS} s": older_bank,
        f"budgets: simulation, {SIMULATION_SEEDS:,} seeds": simulation,
        f"properties, {EXAMPLES} examples each, seed {SEED}": properties,
        f"record: {KILLS} kills, {OUTAGE_SECONDS} s of outage at {OUTAGE_RATE} events/s": record_faults,
        "record: accepted, drained, HTTP, 3 rounds": bench_events,
        "record: queries over 10 million events": bench_queries,
        f"faults, {FAULT_REPEATS} time(s) more": faults,
        "benchmark, 5 interleaved rounds": benchmark,
        f"soak, {SOAK_REQUESTS} requests": soak,
    }
    for name, step in steps.items():
        if only and not any(words in name for words in only):
            continue
        if name in state["passed"]:
            console.print(f"[green]passed before[/]  {name}")
            continue
        console.print(f"running  {name} ...")
        began = time.monotonic()
        result = step()
        state["passed"][name] = {
            "result": result,
            "seconds": round(time.monotonic() - began),
            "commit": commit[:HASH_CHARS],
            "day": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": _machine(),
        }
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps(state, indent=2))
        PAGE.write_text(page(state, list(steps)), encoding="utf-8")
        console.print(f"[green]passed[/]  {name}: {result}")
    console.print(f"written to {PAGE.relative_to(ROOT)}")


def all_tests() -> str:
    """Run the fast tier."""
    return _pytest(*PARALLEL)


def properties() -> str:
    """Run the property tests with many more examples."""
    return _pytest(*PARALLEL, "tests/unit", environ={"HX_TEST_EXAMPLES": str(EXAMPLES)}, seed=True)


def faults() -> str:
    """Run the fault tests several times: what fails once in a while fails here."""
    for _ in range(FAULT_REPEATS - 1):
        _pytest("tests/faults")
    return _pytest("tests/faults")


def wiring() -> str:
    """End a run of ``wire`` and ``unwire`` at every call that changes a file."""
    return _pytest("tests/acceptance/wiring/test_interruptions.py", environ={"HX_TEST_EVERY_CALL": "1"}, limit=1800)


def record_faults() -> str:
    """Run the record's faults with the counts that the promise rests on."""
    counts = {
        "HX_TEST_KILLS": str(KILLS),
        "HX_TEST_OUTAGE_SECONDS": str(OUTAGE_SECONDS),
        "HX_TEST_OUTAGE_RATE": str(OUTAGE_RATE),
    }
    return _pytest(
        "tests/faults/test_record.py", "tests/faults/test_record_rows.py", "-k", "postgres18", environ=counts
    )


def simulation() -> str:
    """Run the accounting under a clock, stores and a network that are made up and go wrong."""
    return _pytest("tests/simulation", environ={"HX_TEST_SIM_SEEDS": str(SIMULATION_SEEDS)}, limit=6 * 3600)


def machine() -> str:
    """Let hypothesis order calls, crashes and outages of real stores."""
    return _pytest(
        "tests/integration/limits/test_accounting_machine.py",
        environ={"HX_TEST_MACHINE_EXAMPLES": str(MACHINE_EXAMPLES)},
        seed=True,
        limit=7200,
    )


def bank() -> str:
    """Break gateways and stores while a model's server keeps its own bill."""
    counts = {"HX_TEST_BANK_SECONDS": str(BANK_SECONDS)}
    return _pytest("tests/faults/test_bank.py", "-s", environ=counts, figures=BANK_FIGURES)


def older_bank() -> str:
    """The same with the oldest PostgreSQL and Redis that are supported."""
    counts = {"HX_TEST_BANK_SECONDS": str(OLDER_BANK_SECONDS), "HX_TEST_BANK_ALL": "1"}
    return _pytest("tests/faults/test_bank.py", "-s", "-k", "not postgres18", environ=counts, figures=BANK_FIGURES)


def races() -> str:
    """Let three processes race for the last call of a budget, again and again."""
    return _pytest("tests/integration/limits/test_races.py", environ={"HX_TEST_RACES": str(RACES)}, limit=7200)


def registry_document() -> str:
    """Ask every operation of the registry what its document allows and what it does not, as everybody who may come."""
    return _pytest(
        "tests/acceptance/test_registry_openapi.py",
        environ={"HX_TEST_OPENAPI_EXAMPLES": str(OPENAPI_EXAMPLES)},
        limit=1800,
    )


def registry_races() -> str:
    """Let several change the same services at once, again and again."""
    return _pytest(
        "tests/acceptance/test_registry_races.py", environ={"HX_TEST_REGISTRY_RACES": str(REGISTRY_RACES)}, limit=3600
    )


def registry_feed() -> str:
    """Follow changes over connections that end at random."""
    counts = {"HX_TEST_FEED_CHANGES": str(FEED_CHANGES), "HX_TEST_FEED_CUTS": str(FEED_CUTS)}
    return _pytest(
        "tests/acceptance/test_registry_changes.py", "-k", "cut_off and postgres18", environ=counts, limit=3600
    )


def bench_registry() -> str:
    """Measure lists, searches and sums of a large registry; it fails where a 99th percentile is over 50 ms."""
    measured = _measured("registry")
    cases = [case for case in measured["cases"] if case["promised"]]
    cached = measured["cached_read"]["server_cpu"]
    slowest = max(cases, key=lambda case: float(case["p99"]))
    middle = sorted(case["p50"] for case in cases)[len(cases) // 2]
    return (
        f"{len(cases)} cases; median p50 {middle:.2f} ms; slowest p99 {slowest['p99']:.1f} ms ({slowest['name']}); "
        f"a read from memory {cached:.2f} ms of CPU"
    )


def known_keys() -> str:
    """Call with known keys while PostgreSQL is away in every way it can be."""
    return _pytest(
        "tests/faults/test_known_keys.py", environ={"HX_TEST_KNOWN_KEY_REQUESTS": str(KNOWN_KEY_REQUESTS)}, limit=3600
    )


def bench_accounting() -> str:
    """Measure what accounting costs; it fails where the throughput is below what is promised."""
    found = _measured("accounting", "--rounds", "7")
    shown = [
        f"{kind}: {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
        for kind, ratio in found["ratios"].items()
    ]
    return f"of the throughput with authentication alone, {', '.join(shown)}"


def bench_events() -> str:
    """Measure the write path; it fails where a figure is below what is promised."""
    found = _measured("record", "--rounds", "3")
    ratio, http = found["drained_to_raw_copy"], found["http"]
    accepted, committed = found["accepted_per_second"]["median"], found["drained_per_second"]["median"]
    of_raw = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
    shown = f"accepted {accepted:,.0f}/s; committed {committed:,.0f}/s, {of_raw} of raw COPY"
    return (
        f"{shown}; HTTP {http['accepted_per_second']:,.0f}/s accepted, {http['committed_per_second']:,.0f}/s committed"
    )


def bench_queries() -> str:
    """Measure the queries; it fails where a 99th percentile is over what is promised."""
    found = _measured("queries")
    cases = found["quiet"]
    slowest = max(cases, key=lambda case: float(case["p99"]))
    middle = sorted(case["p50"] for case in cases)[len(cases) // 2]
    return f"{len(cases)} cases; median p50 {middle:.2f} ms; slowest p99 {slowest['p99']:.1f} ms ({slowest['name']})"


def benchmark() -> str:
    """Run the benchmark; the ratio to nginx is what counts."""
    results = _bench("--rounds", "5", "--seconds", "2")
    targets = results["targets"]
    gateway = targets["gateway"]
    ratio = results["ratio_to_nginx"]
    shown = f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['greatest']:.3f}) of nginx" if ratio else "no nginx"
    errors = sum(target["errors"] for target in targets.values())
    return f"{shown}; {sorted(gateway['cpu_us'])[len(gateway['cpu_us']) // 2]:.0f} µs CPU a request; {errors} errors"


def soak() -> str:
    """Send many requests: no error, and memory that does not grow."""
    found = _bench("--rounds", "1", "--seconds", "1", "--soak", str(SOAK_REQUESTS))["soak"]
    early, late = found["memory_mib_at_a_tenth"], found["memory_mib_at_the_end"]
    if found["errors"] or late > early * MEMORY_GROWTH:
        sys.exit(f"soak failed: {found}")
    return f"{found['requests']} requests, {found['errors']} errors, memory {early:.1f} → {late:.1f} MiB"


def page(state: dict[str, Any], steps: list[str]) -> str:
    """Return the page; a step that has not run for this code is listed as such."""
    lines = [
        "# Verification",
        "",
        "Written by `make test-long`: what was run, on which commit and machine, and what came of it.",
        "",
        f"- code `{state['code'][:HASH_CHARS]}` (`git rev-parse HEAD:src`)",
        "",
        f"| step | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for name in steps:
        entry = state["passed"].get(name, {"result": "not run"})
        lines.append(f"| {name} | {' | '.join(str(entry.get(column, '')) for column in COLUMNS)} |")
    return "\n".join([*lines, ""])


def passed_on(text: str, code: str) -> dict[str, Any]:
    """Return the steps that a page says have passed for ``code``; none where it is about another."""
    if f"- code `{code[:HASH_CHARS]}`" not in text:
        return {}
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    others = len(COLUMNS) - 1
    return {
        row[0]: dict(zip(COLUMNS, [" | ".join(row[1:-others]), *row[-others:]], strict=True))
        for row in rows[1:]
        if len(row) > len(COLUMNS)
    }


def _pytest(
    *arguments: str,
    environ: dict[str, str] | None = None,
    seed: bool = False,
    figures: re.Pattern[str] | None = None,
    limit: int = 900,
) -> str:
    """Return pytest's last line, and before it the lines of its output that hold ``figures``.

    ``limit`` is what one test may take, in seconds.
    """
    options = [f"--hypothesis-seed={SEED}"] if seed else []
    command = [sys.executable, "-m", "pytest", f"--timeout={limit}", *options, *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(environ or {})}, capture_output=True, check=False)
    last = done.stdout.decode(errors="replace").strip().splitlines()[-1]
    if done.returncode != 0:
        sys.stdout.write(done.stdout.decode(errors="replace"))
        sys.exit(f"failed: {last}")
    shown = figures.findall(done.stdout.decode(errors="replace")) if figures is not None else []
    return "; ".join([*shown, last])


def _bench(*arguments: str) -> dict[str, Any]:
    out = ROOT / "benchmarks" / "out"
    known = set(out.glob("bench-*.json"))
    subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    (written,) = set(out.glob("bench-*.json")) - known
    results: dict[str, Any] = json.loads(written.read_text())
    return results


def _measured(name: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.stdout.write(done.stdout.decode(errors="replace"))
        sys.exit(f"failed: benchmarks.{name}")
    results: dict[str, Any] = json.loads((ROOT / "benchmarks" / "out" / f"{name}.json").read_text())
    return results


def _load(code: str) -> dict[str, Any]:
    if STATE.exists():
        state: dict[str, Any] = json.loads(STATE.read_text())
        if state.get("code") == code:
            return state
    return {"code": code, "passed": passed_on(PAGE.read_text(encoding="utf-8"), code) if PAGE.exists() else {}}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main(*sys.argv[1:])
