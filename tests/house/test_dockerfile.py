"""The CUDA image is written well and keeps the container's torch; it cannot be built without its base image."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.house.tree import ROOT

HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"


def lint(text: str) -> list[str]:
    """What hadolint says about a Dockerfile, one fault a line."""
    ran = subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    assert not ran.stderr, ran.stderr
    return ran.stdout.splitlines()


def unkept(text: str) -> list[str]:
    """Commands that install packages without the constraints that keep torch as the container has it."""
    commands = [part for line in text.replace("\\\n", " ").splitlines() for part in line.split("&&")]
    installs = [part.strip() for part in commands if "pip install" in part and not part.lstrip().startswith("#")]
    return [part for part in installs if not {"--constraint /tmp/keep.txt", "--no-deps --editable ."} & _has(part)]


def _has(part: str) -> set[str]:
    """Which of the ways to leave torch alone a command takes; one's own package without dependencies brings none."""
    return {way for way in ("--constraint /tmp/keep.txt", "--no-deps --editable .") if way in part}


def ignored_but_needed(ignore: str) -> list[str]:
    """Files setup.py and the image need that an allow-list .dockerignore does not let into the build context."""
    allowed = {line.removeprefix("!") for line in ignore.splitlines() if line.startswith("!")}
    needed = {"LICENSE", "README.md", "examples", "kernels", "megatron_nmm", "pyproject.toml", "setup.py", "tools"}
    return sorted(needed - allowed)


def test_the_image_is_written_well() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert lint(text) == []
    assert unkept(text) == []
    assert "FROM nvcr.io/nvidia/pytorch:" in text


def test_the_build_context_holds_what_the_image_needs() -> None:
    assert ignored_but_needed((ROOT / ".dockerignore").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text", ["FROM debian\n", "FROM debian:13\nRUN cd /opt\n", "FROM debian:13\nRUNN true\n"])
def test_the_lint_finds(text: str) -> None:
    assert lint(text)


def test_the_check_finds_an_install_that_could_replace_torch() -> None:
    assert unkept("RUN true \\\n  && pip install --no-cache-dir torch\n") == ["pip install --no-cache-dir torch"]
    assert ignored_but_needed("*\n!setup.py\n") != []
