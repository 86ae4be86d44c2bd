"""Says which field of a raw record is what: given as ``text=content,id=url``, or recognised by the fields there are."""

from collections.abc import Set
from dataclasses import dataclass, fields
from functools import cached_property

from megatron_nmm.data.raw.record import printable
from megatron_nmm.errors import DataError

TEXT_ROLES = ("text", "caption", "texts")
"""A record has one of them: text with image markers, text of the one image before it, or parallel lists."""
IMAGE_ROLES = ("image", "images")


@dataclass(frozen=True)
class Schema:
    """Role -> name of the field that plays it, empty where none does.

    In a WebDataset a field is a member's extension (``jpg``, or ``png;jpg`` for the first that is there) or a field of
    a JSON member (``json[caption]``). Raises DataError when the roles contradict each other.
    """

    id: str = "id"
    """A string or an integer; a record without it is named after its place."""
    kind: str = ""
    text: str = ""
    caption: str = ""
    texts: str = ""
    image: str = ""
    images: str = ""

    def __post_init__(self) -> None:
        texts = [role for role in TEXT_ROLES if getattr(self, role)]
        if len(texts) != 1:
            raise DataError(f"the schema names {' and '.join(texts) or 'no text'}; name one of {', '.join(TEXT_ROLES)}")
        if self.image and self.images:
            raise DataError("the schema names image and images; name one of them")
        if self.texts and not self.images:
            raise DataError("the schema names texts without images; name the list of images beside it")

    @staticmethod
    def parse(words: str) -> "Schema":
        """The schema spelled ``role=field,role=field``; raises DataError when it is none."""
        chosen: dict[str, str] = {}
        for word in words.split(","):
            role, equals, field = word.partition("=")
            role, field = role.strip(), field.strip()
            if role not in ROLES or not equals or not field:
                raise DataError(f"schema {word!r} is not role=field with a role of {', '.join(ROLES)}")
            if role in chosen:
                raise DataError(f"schema {words!r} names {role} twice; name each role once")
            chosen[role] = field
        return Schema(**chosen)

    def to_json(self) -> dict[str, str]:
        """The roles that are played."""
        return {role: field for role in ROLES if (field := getattr(self, role))}

    @cached_property
    def image_field(self) -> str:
        """The field the images stand in; empty when there is none."""
        return self.image or self.images

    @cached_property
    def text_field(self) -> str:
        """The field the text stands in."""
        return self.text or self.caption or self.texts

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The fields without which a record is none; with a ``kind``, the list of images may be left out."""
        own = self.id if self.id != Schema.id else ""
        return tuple(filter(None, (own, self.kind, self.text_field, "" if self.kind else self.image_field)))


ROLES = tuple(field.name for field in fields(Schema))

LAYOUTS: tuple[tuple[frozenset[str], Schema], ...] = (
    (frozenset({"kind"}), Schema(kind="kind", text="text", images="images")),
    (frozenset({"texts", "images"}), Schema(texts="texts", images="images")),
    (frozenset({"caption", "image"}), Schema(caption="caption", image="image")),
    (frozenset({"caption", "images"}), Schema(caption="caption", images="images")),
    (frozenset({"text", "image"}), Schema(text="text", image="image")),
    (frozenset({"text", "images"}), Schema(text="text", images="images")),
    (frozenset({"text"}), Schema(text="text")),
)
"""(fields a record of the layout has, its schema), the most telling first."""


def detect(names: Set[str]) -> Schema | None:
    """The first of :data:`LAYOUTS` whose fields are all among ``names``."""
    for needed, schema in LAYOUTS:
        if needed <= names:
            return schema
    return None


def describe(names: Set[str]) -> str:
    """``names`` for a message."""
    return printable(", ".join(sorted(names))) or "no fields"
