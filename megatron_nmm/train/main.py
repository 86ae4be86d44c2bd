"""From the command line to a trained model: what every recipe calls under ``if __name__ == "__main__"``."""

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from megatron_nmm.config import RunConfig
from megatron_nmm.config.command_line import Recipe, parse, require_launcher
from megatron_nmm.config.refusal import FAULTY, INTERRUPTED, TAKEN_BACK, refuse
from megatron_nmm.errors import NMMError
from megatron_nmm.models.pipeline_plan import stage_note


def main(
    recipe: Recipe, presets: Mapping[str, Recipe] = MappingProxyType({}), argv: Sequence[str] | None = None
) -> None:
    """Run ``recipe``, or the one of ``presets`` that ``--preset`` names, as the command line changes it.

    Under torchrun or as one plain process.

    An error a user can mend ends the process with its message and exit code 2, without a traceback. Torch is imported
    only once there is something to run, so that ``--check`` answers at once.
    """
    run = parse(recipe, sys.argv[1:] if argv is None else argv, presets, (stage_note,))
    if run is None:
        return
    try:
        require_launcher(run)
        _train(run)
    except NMMError as error:
        raise SystemExit(refuse_once(error)) from None
    except KeyboardInterrupt:  # during training, Ctrl-C is Stop's affair
        if os.environ.get("RANK", "0") == "0":
            print("\nstopped outside of training; checkpoints are as they were", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _train(run: RunConfig) -> None:
    from megatron_nmm.device.deepep import require_deepep
    from megatron_nmm.device.eight_bits import require_eight_bits
    from megatron_nmm.device.select import select
    from megatron_nmm.parallel.world import World

    if run.model.sparse.experts and run.parallel.dispatcher == "deepep":
        require_deepep()
    device = select(run.device)
    require_eight_bits(run, device, int(os.environ.get("WORLD_SIZE", "1")))
    world = World.start(run.parallel, device, run.seed, run.threads)
    # Modules of megatron-core come in with the loop; the device has to be ready for them.
    from megatron_nmm.train.loop import train

    taken_back = train(run, world)
    world.close()
    # torchrun takes every other exit code for a failure and would start the run again on the machine that goes away.
    if taken_back and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise SystemExit(TAKEN_BACK)


def refuse_once(error: NMMError) -> int:
    """Say ``error`` once for all ranks; the exit code."""
    speaks: bool | None = getattr(error, "speaks", None)
    # This rank or another one has spoken already: nothing to wait for.
    if speaks is False or getattr(error, "told", False):
        return FAULTY
    return refuse(error, speaks=True if speaks else _first_to_say(str(error)))


def _first_to_say(message: str) -> bool:
    """Whether no other rank has printed ``message``: most errors are raised by all ranks alike, some by one alone."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_initialized():
        return True
    from megatron_nmm.train.roll_call import keep_quiet

    try:
        store = dist.distributed_c10d._get_default_store()
        first = bool(store.add(f"nmm-said/{message}", 1) == 1)
        if first:
            keep_quiet(store)
        return first
    except RuntimeError:  # the store went down with the rank that held it: better twice than never
        return True
