"""One idea per file: short files, short functions, a first sentence that says the idea, nothing left to do."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.house.tree import ROOT, code

FILE_LINES = 400
FUNCTION_LINES = 50
CODE = (".py", ".sh", ".cu", ".cuh", ".cpp", ".h")
UNFINISHED = re.compile("TO" + "DO|FIX" + "ME|X" + "XX|NotImplemented" + "Error")


def text_faults(text: str) -> Iterator[str]:
    """Faults that any source file can have."""
    lines = text.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{len(lines)} lines, more than {FILE_LINES}: there are two ideas in it, split them"
    for number, line in enumerate(lines, 1):
        if found := UNFINISHED.search(line):
            yield f"line {number}: {found.group()}; finish it, or open an issue and leave no mark"


def python_faults(text: str) -> Iterator[str]:
    """Faults of a Python module; an empty one has none."""
    tree = ast.parse(text)
    if tree.body and not ast.get_docstring(tree):
        yield "no module docstring: its first sentence says the one idea"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines, more than {FUNCTION_LINES}"


def test_files_and_functions_stay_short_and_finished() -> None:
    found = []
    for path in code(*CODE):
        text = path.read_text(encoding="utf-8")
        faults = [*text_faults(text), *(python_faults(text) if path.suffix == ".py" else ())]
        found += [f"{path.relative_to(ROOT)}: {fault}" for fault in faults]
    assert not found, "\n".join(found)


def test_the_check_sees_the_code() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in code(*CODE)}
    assert {"setup.py", "megatron_nmm/errors.py", "tests/run.sh", "tools/setup_env.sh"} <= names


@pytest.mark.parametrize(
    "text", ["x = 1\n" * (FILE_LINES + 1), "x = 1  # TO" + "DO later", "raise NotImplemented" + "Error"]
)
def test_the_check_finds_in_any_file(text: str) -> None:
    assert len(list(text_faults(text))) == 1


@pytest.mark.parametrize("text", ["x = 1", '"""Idea."""\ndef f():\n' + "    x = 1\n" * FUNCTION_LINES])
def test_the_check_finds_in_python(text: str) -> None:
    assert len(list(python_faults(text))) == 1


def test_the_check_lets_the_longest_allowed_pass() -> None:
    longest = '"""Idea."""\ndef f():\n' + "    x = 1\n" * (FUNCTION_LINES - 1)
    assert list(python_faults(longest)) == []
    assert list(text_faults("x = 1\n" * FILE_LINES)) == []
