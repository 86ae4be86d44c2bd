"""A step on megatron-core's Transformer Engine layers with the stand-in, in a process of its own; of a layout of more
ranks, each in such a process, the first rank's shards alone.

    python -m tests.precision.engine_job CONFIG WEIGHTS RESULT RANK

WEIGHTS is a full state by torch.save; RESULT: what the tree is made of, loss, gradients and contexts entered.
"""

import sys
from typing import Any

import torch

from tests.precision import fake_engine


def main(config: str, weights: str, result: str, rank: str) -> None:
    """Read, build, load, step, tell."""
    fake_engine.install()
    from megatron_nmm.config.io import load
    from megatron_nmm.device.cpu import CpuDevice
    from megatron_nmm.models.build import build
    from megatron_nmm.parallel import full_state
    from megatron_nmm.parallel.schedule import forward_backward
    from megatron_nmm.parallel.world import World
    from megatron_nmm.verify import synthetic

    class LikeGpu(CpuDevice):
        """A CPU that takes itself for a GPU with 8-bit products."""

        eight_bit_products = True
        fused_weight_gradient = writes_first_gradient = False

    run, state = load(config), torch.load(weights, weights_only=True)
    device, size = LikeGpu(), run.parallel.processes
    meet = f"file://{result}.store" if size > 1 else None
    device.start(0, 1, 1)
    world = World.join(run.parallel, device, run.seed, rank=int(rank), size=size, init_method=meet)
    model = build(run, world)
    if size > 1:
        if world.is_main:
            torch.save({piece.key: (*map(tuple, places(piece)),) for piece in full_state.pieces(model)}, result)
        world.close()
        return
    full_state.load(model, state)
    fake_engine.ENTERED.clear()
    count = run.data.global_batch // run.data.microbatch
    sums = forward_backward(model, synthetic.batches(run, count, run.seed, sources=2), world, sources=2)
    gradients = full_state.gather(model, world, full_state.gradient)
    torch.save(
        {
            "loss": sums.mean,
            "gradients": gradients,
            "tree": tree(model),
            "shapes": {piece.key: tuple(piece.global_shape) for piece in full_state.pieces(model)},
            "entered": fake_engine.ENTERED,
        },
        result,
    )
    world.close()


def places(piece: Any) -> tuple[Any, Any, Any]:
    """Whole shape, own shape, where that begins."""
    return piece.global_shape, piece.local_shape, piece.global_offset


def tree(model: Any) -> dict[str, str]:
    """Name -> class of every module that holds weights of its own."""
    inner = model.module
    return {
        name: type(module).__name__ for name, module in inner.named_modules() if list(module.parameters(recurse=False))
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
