"""Content comes out the same however it is packed and wherever it lies, up to the byte where a file was cut."""

import gzip
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.raw.opening import (
    CutStream,
    base_name,
    chunks,
    fingerprint,
    open_file,
    size_of,
)
from megatron_nmm.errors import DataError
from tests.data.raw.files import pack

CONTENT = b"".join(b'{"text": "line %d"}\n' % number for number in range(3000))


def _content(name: Path | str, packing: str) -> tuple[bytes, str]:
    """What is read, and why reading ended early."""
    found = b""
    try:
        for _, piece in chunks(str(name), packing, 0, size_of(str(name))):
            found += piece
    except CutStream as cut:
        return found, str(cut)
    return found, ""


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
def test_packed_files_give_their_content(tmp_path: Path, packing: str) -> None:
    (tmp_path / "f").write_bytes(pack(CONTENT, packing))
    assert _content(tmp_path / "f", packing) == (CONTENT, "")
    (tmp_path / "f").write_bytes(pack(b"", packing))
    assert _content(tmp_path / "f", packing) == (b"", "")


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_several_packed_parts_follow_each_other(tmp_path: Path, packing: str) -> None:
    filling = b"\0" * 700 if packing == "gz" else b""
    (tmp_path / "f").write_bytes(pack(CONTENT, packing) + filling + pack(b"more", packing) + filling)
    assert _content(tmp_path / "f", packing) == (CONTENT + b"more", "")


@pytest.mark.parametrize("packing", ["gz", "zst"])
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.01, 0.999))
def test_a_cut_file_gives_what_stands_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, packing: str, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "f"
    whole = pack(CONTENT, packing)
    path.write_bytes(whole[: max(1, int(len(whole) * share))])
    found, reason = _content(path, packing)
    assert reason and CONTENT.startswith(found)


def test_nothing_before_the_cut_of_a_gzip_file_is_lost(tmp_path: Path) -> None:
    whole = gzip.compress(CONTENT, mtime=0)
    # Without the check sum and the length behind them, all bytes are there but nothing says that they are right.
    (tmp_path / "f").write_bytes(whole[:-8])
    found, reason = _content(tmp_path / "f", "gz")
    assert found == CONTENT and reason == f"the gzip data ends in the middle: the file was cut at byte {len(whole) - 8}"


def test_a_damaged_gzip_file_says_so(tmp_path: Path) -> None:
    whole = bytearray(pack(CONTENT, "gz"))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "f").write_bytes(whole)
    assert "damaged" in _content(tmp_path / "f", "gz")[1]


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_page_instead_of_a_packed_file_says_so(tmp_path: Path, packing: str) -> None:
    (tmp_path / "f").write_bytes(b"<html>no such page</html>")
    assert _content(tmp_path / "f", packing)[0] == b"" and "damaged" in _content(tmp_path / "f", packing)[1]


def test_a_file_that_shrinks_says_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    with pytest.raises(CutStream, match="ends 4 bytes early"):
        list(chunks(str(tmp_path / "f"), "", 0, 9))


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
def test_urls_are_read_as_files_are(tmp_path: Path, packing: str) -> None:
    with fsspec.open(f"memory://raw-{packing}/a.jsonl", "wb") as file:
        file.write(pack(CONTENT, packing))
    (tmp_path / "a.jsonl").write_bytes(pack(CONTENT, packing))
    for url in (f"memory://raw-{packing}/a.jsonl", f"file://{tmp_path}/a.jsonl"):
        assert _content(url, packing) == (CONTENT, "")
        assert fingerprint(url, 0, size_of(url)) == fingerprint(str(tmp_path / "a.jsonl"), 0, size_of(url))
        assert base_name(url) == "a.jsonl"


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "no"), "memory://none/at-all"):
        with pytest.raises(DataError, match="cannot be read"):
            open_file(name)
        with pytest.raises(DataError, match="cannot be read"):
            size_of(name)
    with pytest.raises(DataError, match=r"nosuch://a/b cannot be opened: .*nosuch"):
        open_file("nosuch://a/b")


def test_a_query_is_no_part_of_a_name() -> None:
    assert base_name("https://host/a/b.jsonl.gz?token=x/y") == "b.jsonl.gz"
    assert base_name("folder/") == "folder"


def test_a_fingerprint_sees_both_ends_alone(tmp_path: Path) -> None:
    content = bytearray(b"x" * 300_000)
    marks = set()
    for place in (None, 10, 150_000, 299_990):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 0
        (tmp_path / "f").write_bytes(changed)
        marks.add(fingerprint(str(tmp_path / "f"), 0, 300_000))
    assert len(marks) == 3
