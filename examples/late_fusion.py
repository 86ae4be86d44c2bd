"""Late fusion: a vision transformer of its own width reads the patches, a connector hands them to the decoder (P1).

    torchrun --nproc-per-node 2 examples/late_fusion.py                         # on handwritten digits
    torchrun --nproc-per-node 2 examples/late_fusion.py --set optim.rates.vision=0   # with a frozen encoder
    python examples/late_fusion.py --preset 1.748b --check --set data.tokenizer=...  # one of the paper's sizes

``--preset`` takes the sizes of P1's Table 6, 0.289b to 3.714b. The digits come from examples/data/prepare_digits.sh.
"""

from dataclasses import replace
from functools import partial

from digits import recipe as digits
from p1 import training

from megatron_nmm.config import RatesConfig, RunConfig, VisionConfig
from megatron_nmm.config.presets import LATE_FUSION, late_fusion
from megatron_nmm.train.main import main

ENCODER_RATE = 0.01
"""P1's best multiplier for an encoder that starts from scratch (Table 8)."""


def recipe() -> RunConfig:
    """Late fusion on handwritten digits: an encoder half as wide as the decoder and as deep, two processes."""
    run = digits()
    vision = VisionConfig(depth=4, width=96, heads=4, patch=run.model.vision.patch)
    return replace(
        run, name="late", folder="runs/late_fusion", model=replace(run.model, width=176, ffn=512, vision=vision)
    )


def paper(label: str) -> RunConfig:
    """The run of one of P1's sizes."""
    rates = RatesConfig(vision=ENCODER_RATE)
    return training(f"late-{label}", late_fusion(label), LATE_FUSION[label].learning_rate, rates)


PRESETS = {label: partial(paper, label) for label in LATE_FUSION}

if __name__ == "__main__":
    main(recipe, PRESETS)
