"""P1's table: sizes, rates, and a legal run for every row."""

from dataclasses import replace

import pytest

from megatron_nmm.config import OptimConfig, RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.presets import EARLY_FUSION, early_fusion, learning_rate
from megatron_nmm.errors import ConfigError

# Table 6: width, SwiGLU width, peak learning rate.
TABLE_6 = {
    "0.275b": (800, 2304, 1.5e-3),
    "0.464b": (1088, 3072, 1.5e-3),
    "0.932b": (1632, 4352, 5e-4),
    "1.627b": (2208, 5888, 4.2e-4),
    "2.280b": (2624, 7168, 4e-4),
    "3.354b": (3232, 8704, 3.5e-4),
}


@pytest.mark.parametrize("label", TABLE_6)
def test_row_equals_the_paper(label: str) -> None:
    model = early_fusion(label)
    assert (model.width, model.ffn_width, learning_rate(label)) == TABLE_6[label]
    assert (model.layers, model.vocabulary, model.tie_embeddings, model.vision.depth) == (24, 50_432, False, 0)


def test_largest_row_has_the_derived_width_and_no_rate() -> None:
    assert (early_fusion("8.129b").ffn_width, early_fusion("8.129b").head_width) == (13_824, 128)
    with pytest.raises(ConfigError, match=r"no learning rate for its 8\.129b model; choose one"):
        learning_rate("8.129b")


@pytest.mark.parametrize("label", EARLY_FUSION)
@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_every_row_is_legal_in_the_usual_layouts(label: str, tensor: int) -> None:
    rate = EARLY_FUSION[label].learning_rate or 1e-4
    run = RunConfig(model=early_fusion(label), optim=OptimConfig(learning_rate=rate))
    run = replace(run, parallel=replace(run.parallel, tensor=tensor, pipeline=4, sequence=tensor > 1))
    assert check(run, 8 * tensor * 4) == ()


def test_label_in_capitals_and_unknown_label() -> None:
    assert early_fusion("0.275B") == early_fusion("0.275b")
    with pytest.raises(ConfigError, match=r"no early-fusion size is called 0\.27b; the nearest is 0\.275b, all are"):
        early_fusion("0.27b")
