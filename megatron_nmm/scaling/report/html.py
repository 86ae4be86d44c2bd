"""Pieces of a page as text: every value that is not already a piece is escaped."""

from collections.abc import Iterable, Sequence
from html import escape


class Piece(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Piece:
    """``tag("p", "a < b", class_="note")``: an element with escaped children and attributes.

    An underscore at the end of an attribute's name falls away, one inside is a hyphen. None leaves a child out.
    """
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    return Piece(f"<{name}{words}>{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Piece:
    """Children one after the other."""
    return Piece(between.join(piece(child) for child in children if child is not None))


def piece(value: object) -> Piece:
    """``value`` as it may stand in a page."""
    return value if isinstance(value, Piece) else Piece(escape(str(value)))


def table(
    caption: str,
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    words: Sequence[int] = (),
    sortable: bool = False,
) -> Piece:
    """A table in a box that scrolls sideways; the first cell of a row is its heading.

    ``words``: columns that hold no numbers. A cell may be (shown, sorted by); a ``sortable`` table's headings are
    buttons (look.py).
    """

    def cell(column: int, value: object, name: str, **more: object) -> Piece:
        shown, key = value if isinstance(value, tuple) else (value, None)
        kind = {"class_": "words"} if column in words else {}
        return tag(name, shown, **kind, **more, **({} if key is None else {"data_key": key}))

    heads = [
        cell(column, tag("button", head, type="button") if sortable else head, "th", scope="col")
        for column, head in enumerate(header)
    ]
    body = [
        tag("tr", cell(0, row[0], "th", scope="row"), *(cell(at, value, "td") for at, value in enumerate(row) if at))
        for row in rows
    ]
    parts = (tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body))
    whole = tag("table", *parts, **({"class_": "sortable"} if sortable else {}))
    return tag("div", whole, class_="wide", tabindex="0", role="region", aria_label=caption)


def listing(items: Iterable[object]) -> Piece:
    """A list with bullets."""
    return tag("ul", *(tag("li", item) for item in items))
