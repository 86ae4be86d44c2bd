"""Text is cut at its image markers, beside which white space only separates; a path that leads out is told."""

import pytest

from megatron_nmm.data.raw.record import leaves_folder, segments


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


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("a.png", False),
        ("a/..b/c..d", False),
        ("/a", True),
        ("//a", True),
        ("..", True),
        ("a/../b", True),
        ("./..", True),
    ],
)
def test_a_path_that_may_lead_elsewhere(name: str, leaves: bool) -> None:
    assert leaves_folder(name) == leaves
