"""A schema is spelled role=field, contradictions are refused, and known layouts are recognised by their fields."""

import pytest

from megatron_nmm.data.raw.schema import ROLES, Schema, detect
from megatron_nmm.errors import DataError


def test_a_schema_is_spelled_as_roles_and_fields() -> None:
    schema = Schema.parse("text=content, id=url")
    assert schema == Schema(text="content", id="url")
    assert schema.to_json() == {"id": "url", "text": "content"}
    assert schema.needed == ("url", "content")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("content", "'content' is not role=field with a role of id, kind, text"),
        ("title=a", "'title=a' is not role=field"),
        ("text=", "'text=' is not role=field"),
        ("text=a,text=b", "names text twice"),
        ("id=url", "the schema names no text; name one of text, caption, texts"),
        ("text=a,caption=b", "the schema names text and caption"),
        ("text=a,image=b,images=c", "the schema names image and images"),
        ("texts=a", "the schema names texts without images"),
        ("", "'' is not role=field"),
    ],
)
def test_contradictions_are_refused(words: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Schema.parse(words)


@pytest.mark.parametrize(
    ("names", "played"),
    [
        ({"id", "kind", "text", "images"}, {"id", "kind", "text", "images"}),
        ({"url", "text"}, {"text"}),
        ({"texts", "images", "metadata"}, {"texts", "images"}),
        ({"image", "text"}, {"image", "text"}),
        ({"image", "caption", "text"}, {"image", "caption"}),
        ({"images", "caption"}, {"images", "caption"}),
    ],
)
def test_known_layouts_are_recognised(names: set[str], played: set[str]) -> None:
    schema = detect(names)
    assert schema and set(schema.to_json()) - {"id"} == played - {"id"}
    assert all(field == role for role, field in schema.to_json().items())


def test_other_fields_are_no_layout() -> None:
    assert detect({"content", "url"}) is None
    assert detect(set()) is None
    assert set(ROLES) == {"id", "kind", "text", "caption", "texts", "image", "images"}
