"""The stated microbatch: full rows, P1's share of image tokens, whole documents; and rows spread evenly."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import DataConfig, RunConfig
from megatron_nmm.config.presets import early_fusion, navil
from megatron_nmm.dry_run.balance import answer, even
from megatron_nmm.dry_run.load import microbatch
from megatron_nmm.models.accounting import IMAGE_SHARE
from tests.dry_run.models import STRUCTURES, small

PAPERS = {
    "P1": RunConfig(model=early_fusion("0.932b"), data=DataConfig(sequence_length=1024, microbatch=4)),
    "NaViL": RunConfig(
        model=navil("9b"), data=DataConfig(sequence_length=16_384, image_rule="native", max_patches=24_576)
    ),
    "NaViL, pyramid": RunConfig(
        model=navil("9b"), data=DataConfig(sequence_length=16_384, image_rule="native", multi_scale=True, augment=False)
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_rows_are_full_and_hold_the_stated_share_of_images(name: str) -> None:
    run = PAPERS[name]
    batch = microbatch(run)
    assert (batch.rows, batch.sequence_length) == (run.data.microbatch, run.data.sequence_length)
    assert batch.filled.tolist() == [run.data.sequence_length] * run.data.microbatch
    share = len(batch.patch_targets) / batch.tokens.numel()
    assert share == pytest.approx(IMAGE_SHARE, abs=0.06)
    assert len(batch.patches) == len(batch.patch_targets) * run.model.vision.shuffle**2
    assert int(batch.loss_weight.count_nonzero()) > 0.35 * batch.tokens.numel()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_has_images_in_its_rows(structure: str) -> None:
    batch = microbatch(small(structure))
    assert len(batch.grids) and batch.filled.tolist() == [96, 96]


def test_rows_too_short_for_an_image_are_text() -> None:
    run = small("early")
    batch = microbatch(replace(run, data=replace(run.data, sequence_length=4)))
    assert len(batch.patches) == 0 and batch.filled.tolist() == [4, 4]


@pytest.mark.parametrize(("rows", "parts"), [(0, 3), (7, 3), (8, 4), (3, 8)])
def test_even(rows: int, parts: int) -> None:
    sizes = even(rows, parts)
    assert len(sizes) == parts and sum(sizes) == rows and max(sizes) - min(sizes) <= 1


def test_other_questions_get_a_number_of_their_kind() -> None:
    assert answer(torch.empty(2, device="meta"), []).tolist() == [2.0, 2.0]
    assert answer(torch.empty((), dtype=torch.int32, device="meta"), []).item() == 0
