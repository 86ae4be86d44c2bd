"""Fields become records of every layout, or a rejection that says what is wrong with them."""

from typing import Any

import pytest

from megatron_nmm.data.raw.build import Misfit, record_of
from megatron_nmm.data.raw.record import RawImage, Record, Rejection
from megatron_nmm.data.raw.schema import Schema, detect


def _of(values: dict[str, Any], schema: Schema | None = None) -> Record | Rejection:
    return record_of(values, schema or detect(values.keys()), "f@0", "f:1", b"")


def _paths(*names: str) -> tuple[RawImage, ...]:
    return tuple(RawImage(name, None) for name in names)


@pytest.mark.parametrize(
    ("values", "kind", "segments", "images"),
    [
        ({"text": " red "}, "text", (" red ",), ()),
        ({"text": "red", "images": None}, "text", ("red",), ()),
        ({"kind": "caption", "text": "<image> red", "images": ["a"]}, "caption", ("", "red"), _paths("a")),
        ({"image": "a.png", "caption": " red"}, "caption", ("", "red"), _paths("a.png")),
        ({"image": "a.png", "text": "red"}, "caption", ("", "red"), _paths("a.png")),
        ({"image": "a.png", "caption": "<image> red"}, "caption", ("", "red"), _paths("a.png")),
        ({"images": ["a"], "text": "see <image>"}, "interleaved", ("see", ""), _paths("a")),
        ({"images": ["a", "b"], "text": "<image> or <image>?"}, "interleaved", ("", "or", "?"), _paths("a", "b")),
        ({"texts": ["x ", None, " y"], "images": [None, "a", None]}, "interleaved", ("x", "y"), _paths("a")),
        ({"texts": [None, "x"], "images": ["a", None]}, "interleaved", ("", "x"), _paths("a")),
        ({"texts": ["x", "y", None], "images": [None, None, None]}, "text", ("x\n\ny",), ()),
        ({"image": b"\x89", "text": "red"}, "caption", ("", "red"), (RawImage("image[0]", b"\x89"),)),
        ({"image": {"bytes": b"i", "path": "/a"}, "text": "r"}, "caption", ("", "r"), (RawImage("image[0]", b"i"),)),
        ({"image": {"bytes": None, "path": "a"}, "text": "red"}, "caption", ("", "red"), _paths("a")),
    ],
)
def test_layouts(values: dict[str, Any], kind: str, segments: tuple[str, ...], images: tuple[RawImage, ...]) -> None:
    record = _of(values)
    assert isinstance(record, Record), record
    assert (record.kind, record.segments, record.images) == (kind, segments, images)


@pytest.mark.parametrize(("value", "name"), [("a", "a"), (7, "7"), (None, "f@0")])
def test_the_own_id_or_the_place(value: object, name: str) -> None:
    assert _of({"id": value, "text": "red"}).id == name
    assert _of({"text": "red"}).id == "f@0"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"id": "a", "kind": "text"}, "field 'text' is missing; the record has id, kind"),
        ({"id": "", "text": "red"}, "field 'id' is empty"),
        ({"id": [1], "text": "red"}, "field 'id' is not a string"),
        ({"id": True, "text": "red"}, "field 'id' is not a string"),
        ({"kind": "video", "text": "red"}, "kind 'video' is not one of text, caption, interleaved"),
        ({"text": " \n"}, "the text is empty"),
        ({"text": None}, "field 'text' is not a string"),
        ({"text": "\ud800"}, "field 'text' holds half of a surrogate pair"),
        ({"text": "red <image>"}, "the text has 1 <image> markers but there are 0 images"),
        ({"image": "a", "caption": "<image>"}, "the text is empty"),
        ({"image": "a", "caption": "<image> or <image>"}, "has 2 <image> markers but there are 1 images"),
        ({"images": ["a", "b"], "text": "red"}, "has 0 <image> markers but there are 2 images"),
        ({"kind": "caption", "text": "red", "images": ["a"]}, "has 0 <image> markers but there are 1 images"),
        ({"images": "a", "text": "<image> red"}, "field 'images' is not a list of paths"),
        ({"images": [1], "text": "<image> red"}, "field 'images' is not a list of paths"),
        ({"images": [None], "text": "<image> red"}, "field 'images' is not a list of paths"),
        ({"image": "../a", "text": "red"}, "image path '../a' leaves the image folder"),
        ({"image": "/etc/passwd", "text": "red"}, "image path '/etc/passwd' leaves the image folder"),
        ({"image": "https://a/b.jpg", "text": "red"}, "is a URL; fetch the images first"),
        ({"texts": ["x"], "images": []}, "there are 1 texts but 0 images; the lists must be parallel"),
        ({"texts": ["x"], "images": ["a"]}, "position 0 holds both a text and an image"),
        ({"texts": [None], "images": ["a"]}, "the text is empty"),
        ({"texts": "x", "images": [None]}, "the field of texts is not a list"),
        ({"texts": [1], "images": [None]}, "field 'texts[0]' is not a string"),
        ({"texts": ["x"], "images": None}, "field 'images' is not a list of paths"),
    ],
)
def test_what_cannot_be_used_says_why(values: dict[str, Any], reason: str) -> None:
    rejection = _of(values)
    assert isinstance(rejection, Rejection) and not isinstance(rejection, Misfit)
    assert reason in rejection.reason
    assert rejection.where == "f:1"


@pytest.mark.parametrize(
    ("values", "schema", "reason"),
    [
        ({"content": "red"}, None, "the layout is unknown: the record has content; name its fields with --schema"),
        ({}, None, "the record has no fields"),
        ({"a": "x", "b": "y"}, Schema(text="c"), "field 'c' is missing; the record has a, b"),
        ({"a": "x"}, Schema(text="a", images="c"), "field 'c' is missing; the record has a"),
        ({"a": "x"}, Schema(text="a", id="url"), "field 'url' is missing; the record has a"),
    ],
)
def test_a_record_without_the_fields_of_the_schema_says_which_it_has(
    values: dict[str, Any], schema: Schema | None, reason: str
) -> None:
    rejection = _of(values, schema)
    assert isinstance(rejection, Misfit)
    assert reason in rejection.reason
