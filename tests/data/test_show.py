"""The progress bar of a data tool ends full, whenever the total was told."""

import io

import pytest
from rich.console import Console

from megatron_nmm.data.show import reading


@pytest.mark.parametrize(("known", "told"), [(4000, None), (None, 4000), (1000, 4000)])
def test_the_bar_ends_full(known: int | None, told: int | None) -> None:
    shown = io.StringIO()
    with reading("tokenise", known, Console(file=shown, force_terminal=True, width=100)) as tell:
        tell(1000, 3, told)
    last = shown.getvalue().rpartition("\r")[2]
    assert "tokenise" in last and "4.0/4.0 kB" in last and "3 samples" in last
