"""The bounds on functions, files and habits that the code keeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FUNCTION_LINES = 100
MAX_USUAL_LINES = 60
MAX_FILE_LINES = 600
MAX_BROAD_EXCEPTS_PER_THOUSAND = 3.0
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "manager.py", "service.py"}


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_functions_are_short() -> None:
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for _, node in functions())
    assert lengths[-1] <= MAX_FUNCTION_LINES
    assert lengths[int(len(lengths) * 0.99)] <= MAX_USUAL_LINES


def test_files_are_of_one_subject() -> None:
    assert {path.name for path in SOURCES if len(path.read_text().splitlines()) > MAX_FILE_LINES} == set()
    assert {path.name for path in SOURCES} & FORBIDDEN_NAMES == set()


def test_nothing_is_global_and_nothing_is_imported_late() -> None:
    for path, function in functions():
        for node in ast.walk(function):
            assert not isinstance(node, ast.Global), path
            assert not isinstance(node, ast.Import | ast.ImportFrom), path


def test_every_function_is_annotated() -> None:
    for path, function in functions():
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = [
            argument.arg
            for argument in arguments
            if argument.annotation is None and argument.arg not in ("self", "cls")
        ]
        assert function.returns is not None or function.name == "__init__", (path, function.name)
        assert bare == [], (path, function.name)


def test_broad_excepts_are_rare_and_say_why() -> None:
    lines = [line for path in SOURCES for line in path.read_text().splitlines()]
    broad = [line for line in lines if "except Exception" in line]
    assert all("# noqa: BLE001 - " in line for line in broad)
    assert len(broad) / len(lines) * 1000 <= MAX_BROAD_EXCEPTS_PER_THOUSAND


def test_every_module_says_what_lives_there() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_there_is_no_second_mechanism_beside_the_pipeline() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "@app.middleware" not in text
        assert "add_middleware" not in text
