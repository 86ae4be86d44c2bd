"""The words of one kind of device stand in megatron_nmm/device alone; there is no whitelist."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.house.tree import PACKAGE, ROOT, files

WORD = re.compile("cuda|nccl|gloo", re.IGNORECASE)
TEXT = frozenset({tokenize.STRING, tokenize.FSTRING_MIDDLE})


def docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of strings that stand alone: docstrings of modules, classes, functions and attributes."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def device_words(source: str) -> Iterator[tuple[int, str]]:
    """(line, token) of every name or string that holds a device word; comments and docstrings may explain."""
    documented = docstring_lines(ast.parse(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        text = token.type in TEXT and line not in documented
        if (text or token.type == tokenize.NAME) and WORD.search(token.string):
            yield line, token.string


def test_device_words_stand_in_device_alone() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in files(PACKAGE, ".py")
        if path.relative_to(PACKAGE).parts[0] != "device"
        for line, word in device_words(path.read_text(encoding="utf-8"))
    ]
    assert not found, "ask the Device instead (megatron_nmm/device):\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import torch.cuda",
        "x = y.is_cuda",
        'x = y.to("cuda:0")',
        "start(backend='NCCL')",
        'x = f"{rank} uses gloo"',
        "class CudaGraph: ...",
        'def f():\n    """Shapes."""\n    return "cuda"',
    ],
)
def test_the_check_finds(source: str) -> None:
    assert len(list(device_words(source))) == 1


def test_the_check_lets_comments_and_docstrings_pass() -> None:
    source = '"""On cuda."""\nx = 1  # as in nccl\n"""Attribute for gloo."""\n\ndef f():\n    """cuda\n    gloo."""\n'
    assert list(device_words(source)) == []
