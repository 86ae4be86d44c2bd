"""The project runs anywhere: no package registry's host and no path of one machine stand in its files."""

import re
from collections.abc import Iterator

import pytest

from tests.house.tree import ROOT, files

HOSTS = (
    ("pypi", "org"),
    ("python" + "hosted", "org"),
    ("registry", "npmjs"),
    ("deb", "debian", "org"),
    ("download", "pytorch", "org"),
    ("huggingface", "co"),
)
"""In parts, so that this file passes its own check and names none."""

PLACES = {
    "a package registry's host": re.compile("|".join(r"\.".join(words) for words in HOSTS)),
    "a path of one machine": re.compile(r"(?<![\w.~$}-])/(?:home|root|work|Users|mnt)/\w"),
}
TEXT = frozenset({"", ".cfg", ".cpp", ".cu", ".cuh", ".h", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yml"})


def places(text: str) -> Iterator[tuple[int, str]]:
    """(line, what and where) of every place a file must not name."""
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in PLACES.items():
            if found := pattern.search(line):
                yield number, f"{what} ({found.group()})"


def test_no_host_and_no_machine_is_named() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in files(ROOT)
        if path.suffix in TEXT
        for line, what in places(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["pip install -i https://py" + "pi.org/simple", 'open("/ho' + 'me/me/data.bin")', "cd /ro" + "ot/x"]
)
def test_the_check_finds(text: str) -> None:
    assert len(list(places(text))) == 1


@pytest.mark.parametrize("text", ["cd /workspace/run", "/tmp/x", "runs/wo" + "rk/x", "$HOME/wo" + "rk/x", "~/home/x"])
def test_the_check_lets_pass(text: str) -> None:
    assert list(places(text)) == []
