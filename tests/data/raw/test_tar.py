"""Members come out of a tar as a stream, with long names; links are refused and a cut is told, wherever it is."""

import tarfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.raw.opening import CutStream
from megatron_nmm.data.raw.tar import BLOCK, Member, members
from tests.data.raw.files import special, tar

LONG = "folder/" * 20 + "ä" * 60 + ".txt"


def _members(content: bytes, step: int = 700) -> list[Member]:
    return list(members((at + step, content[at : at + step]) for at in range(0, len(content), step)))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("step", [100, 1 << 20])
def test_members_of_every_dialect(format: int, step: int) -> None:
    long = LONG if format != tarfile.USTAR_FORMAT else "folder/" * 20 + "x.txt"
    given: list[tuple[str, bytes | tarfile.TarInfo]] = [("a.txt", b"red"), (long, b"b" * 600), ("c.txt", b"")]
    given.insert(1, ("folder", special(tarfile.DIRTYPE)))
    found = _members(tar(given, format), step)
    assert [(one.name, one.data, one.fault) for one in found] == [
        ("a.txt", b"red", ""),
        (long, b"b" * 600, ""),
        ("c.txt", b"", ""),
    ]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (tarfile.SYMTYPE, "a symbolic link, which is never followed"),
        (tarfile.LNKTYPE, "a hard link, which is never followed"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (b"Z", "of the unknown kind b'Z'"),
    ],
)
def test_what_is_no_plain_file_is_refused(kind: bytes, fault: str) -> None:
    content = tar([("evil.jpg", special(kind, "/etc/passwd")), ("good.txt", b"red")])
    evil, good = _members(content)
    assert (evil.name, evil.data, evil.fault) == ("evil.jpg", b"", fault)
    assert (good.name, good.data, good.fault) == ("good.txt", b"red", "")


def test_a_hard_link_with_content_is_passed_over() -> None:
    # Some writers give links the size of their target, without its content.
    link = special(tarfile.LNKTYPE, "good.txt")
    link.size = 4096
    content = tar([("evil.jpg", link), ("good.txt", b"red")])
    assert [one.name for one in _members(content)] == ["evil.jpg", "good.txt"]


def test_every_cut_is_told() -> None:
    content = tar([("a.txt", b"red"), ("b.txt", b"g" * 600), ("c.txt", b"blue")])
    # Two blocks for a and c, three for b; the end mark follows.
    complete = [0] * 2 + [1] * 3 + [2] * 2 + [3]
    for cut in range(0, 7 * BLOCK + 1, 256):
        found = []
        with pytest.raises(CutStream, match=r"the tar ends before .* complete: it was cut"):
            for member in members(iter([(cut, content[:cut])] if cut else [])):
                found.append(member.name)
        assert found == ["a.txt", "b.txt", "c.txt"][: complete[cut // BLOCK]]
    assert len(_members(content[: 8 * BLOCK])) == 3


def test_damage_names_the_member_before_it() -> None:
    content = bytearray(tar([("a.txt", b"red"), ("b.txt", b"green")]))
    content[2 * BLOCK + 3] ^= 0xFF
    with pytest.raises(CutStream, match=r"the tar is damaged after member 'a.txt' \(bad checksum\)"):
        _members(bytes(content))
    with pytest.raises(CutStream, match="the tar is damaged at its begin"):
        _members(b"<html>" * 200)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 7 * BLOCK - 1), value=st.integers(0, 255), mend=st.booleans())
def test_no_damage_breaks_the_reader(place: int, value: int, mend: bool) -> None:
    content = bytearray(tar([("a.txt", b"red"), (LONG, b"g" * 600)], tarfile.GNU_FORMAT))
    content[place] = value
    header = place - place % BLOCK
    if mend:
        # The check sum fits the damage: the fields themselves have to be doubted.
        content[header + 148 : header + 156] = b" " * 8
        content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + BLOCK])
    with suppress(CutStream):
        assert len(_members(bytes(content))) <= 2


@pytest.mark.parametrize("size", ["-1", "x", "1e3", "9" * 5000])
def test_a_size_that_is_none_is_damage(size: str) -> None:
    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {"size": size}
    with pytest.raises(CutStream, match=r"the tar is damaged at member 'a.txt' \(no size\)"):
        _members(tar([("a.txt", info)]))


def test_a_negative_size_is_damage() -> None:
    header = bytearray(tar([("a.txt", b"red")])[:BLOCK])
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(CutStream, match="the tar is damaged"):
        _members(bytes(header) + b"\0" * BLOCK * 4)


def test_content_behind_the_end_is_told() -> None:
    content = tar([("a.txt", b"red")])
    with pytest.raises(CutStream, match=r"bytes follow the end mark of the tar after 'a.txt' and were not read"):
        _members(content + content)
