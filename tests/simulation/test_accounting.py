"""Thousands of runs in which everything goes wrong, and no account may."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import structlog

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.world import Broken, be_quiet, simulate

SEEDS = int(os.environ.get("HX_TEST_SIM_SEEDS", "1000"))
FIRST_SEED = int(os.environ.get("HX_TEST_SIM_FIRST_SEED", "0"))
CHUNK = 50


@pytest.fixture
def quiet() -> Iterator[None]:
    """Let the log go nowhere, and come back."""
    before = structlog.get_config()
    be_quiet()
    yield
    structlog.configure(**before)


def violations(first: int) -> list[str]:
    """Return what broke in one chunk of seeds; each text begins with its seed."""
    found = []
    for seed in range(first, min(first + CHUNK, FIRST_SEED + SEEDS)):
        try:
            simulate(seed)
        except Broken as broken:
            found.append(str(broken))
    return found


@pytest.mark.timeout(0)
def test_no_account_is_wrong_whatever_happens() -> None:
    chunks = range(FIRST_SEED, FIRST_SEED + SEEDS, CHUNK)
    processes = min(len(chunks), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=be_quiet) as pool:
        found = [text for texts in pool.map(violations, chunks) for text in texts]
    assert found == [], "\n\n".join(found[:3])


def test_one_seed_is_one_history(quiet: None) -> None:
    assert simulate(7).trace == simulate(7).trace


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_wrong_accounts_are_told_apart(mutant: Mutant) -> None:
    with mutant.at_work() as rules:
        for seed in range(mutant.within):
            try:
                simulate(seed, rules)
            except Broken:
                return
    pytest.fail(f"{mutant.name!r} passes for right in {mutant.within} seeds")
