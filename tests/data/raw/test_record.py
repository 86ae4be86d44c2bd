"""Text is cut at its image markers, and white space beside a marker only separates."""

import pytest

from megatron_nmm.data.raw.record import segments


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("red", ["red"]),
        ("<image> a red thing.", ["", "a red thing."]),
        ("<image> plus <image> is red", ["", "plus", "is red"]),
        ("<image><image>", ["", "", ""]),
        ("  kept <image>\n ", ["  kept", ""]),
        (" kept as it is ", [" kept as it is "]),
    ],
)
def test_white_space_beside_a_marker_only_separates(text: str, parts: list[str]) -> None:
    assert segments(text) == parts
