"""A verification goes on from what its page says has passed, and from nothing else."""

from __future__ import annotations

from typing import Any

from scripts.verify import page, passed_on

CODE = "0123456789abcdef0123456789abcdef01234567"
STEPS = ["all tests", "races, 100", "soak"]
PASSED: dict[str, Any] = {
    "all tests": {
        "result": "7 passed | 1 skipped",
        "seconds": 3,
        "commit": "c0ffee",
        "day": "2026-11-30",
        "machine": "A",
    },
    "races, 100": {
        "result": "4 passed",
        "seconds": 90,
        "commit": "c0ffee",
        "day": "2026-12-01",
        "machine": "B, 2 cores",
    },
}


def test_what_a_page_says_is_read_back() -> None:
    text = page({"code": CODE, "passed": PASSED}, STEPS)
    known = passed_on(text, CODE)
    assert [(name, known[name]["result"], known[name]["machine"]) for name in known] == [
        ("all tests", "7 passed | 1 skipped", "A"),
        ("races, 100", "4 passed", "B, 2 cores"),
    ]
    assert page({"code": CODE, "passed": known}, STEPS) == text


def test_a_page_about_other_code_says_nothing() -> None:
    text = page({"code": CODE, "passed": PASSED}, STEPS)
    assert passed_on(text, CODE[::-1]) == {}
    assert passed_on("# Verification\n", CODE) == {}
