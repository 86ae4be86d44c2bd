"""Sparse experts: a router sends each token to few of many MLPs (P1, arXiv 2504.07951, section 2 and appendix D).

    ./examples/moe.sh                                                        # handwritten digits, experts on two ranks
    torchrun --nproc-per-node 2 examples/moe.py --set model.sparse.top_k=2
    python examples/moe.py --preset 0.932b --check --set data.tokenizer=...  # 8 experts at one of the paper's sizes

``--preset`` takes the early-fusion sizes of P1's Table 6, whose active parameters the sparse models keep. A dense run
becomes a sparse one with ``--set init.checkpoint=<run> --set model.sparse.normalise=true``: it starts with the same
losses. Needs the package in kernels/, which moe.sh builds.
"""

from dataclasses import replace
from functools import partial

from digits import recipe as digits
from p1 import training

from megatron_nmm.config import ParallelConfig, RunConfig, ScheduleConfig, SparseConfig
from megatron_nmm.config.presets import EARLY_FUSION, sparse_early_fusion
from megatron_nmm.train.main import main

RATE_OF_LARGEST = 3.5e-4
"""P1 reports no rate for its 8.129b model; this is the one of the next smaller."""


def recipe() -> RunConfig:
    """Eight experts in every layer, top-1, on handwritten digits, four of them on each of two processes."""
    run = digits()
    return replace(
        run,
        name="moe",
        folder="runs/moe/run",
        model=replace(run.model, sparse=SparseConfig(experts=8, top_k=1, balance_loss=0.01)),
        parallel=ParallelConfig(expert=2),
        # P1 warms sparse models up for longer than dense ones (appendix A).
        schedule=ScheduleConfig(warmup=80),
    )


def paper(label: str) -> RunConfig:
    """P1's sparse model with the active parameters of one of its sizes."""
    run = training(f"moe-{label}", sparse_early_fusion(label), EARLY_FUSION[label].learning_rate or RATE_OF_LARGEST)
    return replace(run, parallel=replace(run.parallel, expert=8))


PRESETS = {label: partial(paper, label) for label in EARLY_FUSION}

if __name__ == "__main__":
    main(recipe, PRESETS)
