"""Early fusion: raw patches go straight into the decoder through one linear layer (P1, arXiv 2504.07951, section 2).

    torchrun --nproc-per-node 2 examples/early_fusion.py                       # on handwritten digits, as quickstart.sh
    python examples/early_fusion.py --preset 0.932b --check --set data.tokenizer=...   # one of the paper's sizes

``--preset`` takes the sizes of P1's Table 6, 0.275b to 8.129b. The digits come from examples/data/prepare_digits.sh.
"""

from dataclasses import replace
from functools import partial

from digits import recipe as digits
from p1 import training

from megatron_nmm.config import RunConfig
from megatron_nmm.config.presets import EARLY_FUSION, early_fusion
from megatron_nmm.train.main import main

RATE_OF_LARGEST = 3.5e-4
"""P1 reports no rate for its 8.129b model; this is the one of the next smaller."""


def recipe() -> RunConfig:
    """Early fusion on handwritten digits, a few million parameters, two processes."""
    return replace(digits(), name="early", folder="runs/early_fusion")


def paper(label: str) -> RunConfig:
    """The run of one of P1's sizes."""
    return training(f"early-{label}", early_fusion(label), EARLY_FUSION[label].learning_rate or RATE_OF_LARGEST)


PRESETS = {label: partial(paper, label) for label in EARLY_FUSION}

if __name__ == "__main__":
    main(recipe, PRESETS)
