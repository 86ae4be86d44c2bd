"""Imports point one way: a package sees only the packages below it."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.house.tree import PACKAGE, ROOT, files

LEVELS = (
    ("dry_run",),
    ("train", "evaluate"),
    ("checkpoint", "generate", "planner", "scaling", "verify"),
    ("models",),
    ("precision", "parallel"),
    ("device",),
    ("config",),
    ("files",),
    ("errors",),
)
"""From the top down: a package may import itself and every level below its own, not its neighbours."""

SPECIAL = {"data": {"config", "files", "errors"}, "hf": set[str]()}
"""``data`` stands beside the levels; an export's ``hf`` must load without this package."""

CARRIES_BATCHES = ("dry_run", "train", "evaluate", "checkpoint", "generate", "scaling", "verify", "models", "parallel")
"""These take the batches that ``data`` makes, so they see ``data`` as well."""

OPENS_EXPORTS = ("evaluate", "checkpoint", "generate")
"""These write what ``hf`` loads, or ask it."""

STANDARD_LIBRARY_ONLY = ("config", "files", "errors")
NEVER = {"data": ("megatron",), "hf": ("megatron",)}
OPTIONAL = ("transformer_engine", "nvidia.dali", "apex")
"""Used when found, so importing them as a module loads would break every machine that lacks them."""


def allowed() -> dict[str, set[str]]:
    """For each package of megatron_nmm: the packages of megatron_nmm it may import, besides itself."""
    table = dict(SPECIAL)
    for depth, level in enumerate(LEVELS):
        below = {name for lower in LEVELS[depth + 1 :] for name in lower}
        for name in level:
            table[name] = below | ({"data"} if name in CARRIES_BATCHES else set())
            table[name] |= {"hf"} if name in OPENS_EXPORTS else set()
    return table


def imports(tree: ast.Module, module: str) -> Iterator[tuple[int, str, bool]]:
    """(line, absolute module name, whether it runs as the module loads) of every import of ``module``."""
    deferred = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_load = id(node) not in deferred
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # "from package import name" may name a module of the package as well as a value in it.
            yield from ((node.lineno, f"{base}.{alias.name}", at_load) for alias in node.names)


def faults(source: str, path: str) -> list[str]:
    """What a file of megatron_nmm at ``path`` (such as "megatron_nmm/data/pack.py") may not import."""
    module = path.removesuffix(".py").replace("/", ".")
    parts = module.split(".")
    package = parts[1] if len(parts) > 2 or parts[1] in STANDARD_LIBRARY_ONLY else ""
    found = []
    for line, name, at_load in imports(ast.parse(source), module):
        reason = _reason(package, name, at_load)
        if reason:
            found.append(f"{path}:{line} imports {name}: {reason}")
    return found


def _reason(package: str, name: str, at_load: bool) -> str:
    top, _, rest = name.partition(".")
    if top == "megatron_nmm":
        target = rest.split(".")[0]
        seen = allowed().get(package, set())
        if target != package and target not in seen and not target.startswith("__"):
            return f"{package or 'the package root'} may see only {', '.join(sorted(seen)) or 'itself'}"
    elif package in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names:
        return f"{package} is standard library only"
    elif top in NEVER.get(package, ()):
        return f"{package} works without the engine"
    if at_load and any(f"{name}.".startswith(f"{optional}.") for optional in OPTIONAL):
        return "optional packages are imported inside the function that uses them"
    return ""


def test_every_package_has_a_place_in_the_order() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(allowed()), f"no rule for {sorted(packages - set(allowed()))}"


def test_imports_point_one_way() -> None:
    found = [
        fault
        for path in files(PACKAGE, ".py")
        for fault in faults(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert not found, "\n".join(found)


def test_nothing_imports_the_tools_examples_or_tests() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(PACKAGE, ".py")
        for line, name, _ in imports(ast.parse(path.read_text(encoding="utf-8")), "megatron_nmm")
        if name.partition(".")[0] in {"tools", "examples", "tests"} and (ROOT / name.partition(".")[0]).is_dir()
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("megatron_nmm/data/pack.py", "from megatron_nmm.models import build"),
        ("megatron_nmm/data/pack.py", "from megatron_nmm import train"),
        ("megatron_nmm/data/pack.py", "from ..models import build"),
        ("megatron_nmm/data/pack.py", "def f():\n    import megatron.core"),
        ("megatron_nmm/config/io.py", "import torch"),
        ("megatron_nmm/files/durable.py", "import numpy"),
        ("megatron_nmm/files/lock.py", "from megatron_nmm.config import RunConfig"),
        ("megatron_nmm/config/io.py", "import megatron_nmm.device.select"),
        ("megatron_nmm/errors.py", "import numpy"),
        ("megatron_nmm/models/spec.py", "from megatron_nmm.checkpoint.save import save"),
        ("megatron_nmm/precision/fp8.py", "from megatron_nmm.parallel.world import World"),
        ("megatron_nmm/device/cpu.py", "from megatron_nmm.data.batch import Batch"),
        ("megatron_nmm/hf/model.py", "from megatron_nmm.config import RunConfig"),
        ("megatron_nmm/__init__.py", "from megatron_nmm.config import RunConfig"),
        ("megatron_nmm/device/cuda.py", "try:\n    import transformer_engine.pytorch\nexcept ImportError:\n    pass"),
        ("megatron_nmm/device/cuda.py", "from nvidia import dali"),
    ],
)
def test_the_check_finds(path: str, source: str) -> None:
    assert len(faults(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("megatron_nmm/data/pack.py", "from megatron_nmm.config import RunConfig\nfrom . import plan\nimport torch"),
        ("megatron_nmm/models/attention/core.py", "from megatron_nmm.models.rope import turn"),
        ("megatron_nmm/parallel/schedule.py", "from megatron_nmm.data.batch import Batch\nimport megatron.core"),
        ("megatron_nmm/device/cuda.py", "def f():\n    import transformer_engine.pytorch"),
        ("megatron_nmm/train/main.py", "from megatron_nmm import __version__"),
    ],
)
def test_the_check_lets_pass(path: str, source: str) -> None:
    assert faults(source, path) == []
