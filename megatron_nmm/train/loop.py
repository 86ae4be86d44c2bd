"""The training loop."""

from pathlib import Path

import torch

from megatron_nmm.checkpoint.initialise import initialise
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.resume import can_resume, resume
from megatron_nmm.checkpoint.save import SaveReport, save
from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import to_dict
from megatron_nmm.data.held_out import HeldOut
from megatron_nmm.data.stream import Stream, stream
from megatron_nmm.models.build import build
from megatron_nmm.models.part_sizes import part_sizes
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World
from megatron_nmm.train.announce import announcement, data_line, training_line
from megatron_nmm.train.branch import branch_off
from megatron_nmm.train.cadence import due
from megatron_nmm.train.evaluate import evaluate
from megatron_nmm.train.journal import Journal
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.train.roll_call import RollCall
from megatron_nmm.train.run_folder import claim
from megatron_nmm.train.stop import Stop
from megatron_nmm.train.telemetry import Telemetry


def train(run: RunConfig, world: World) -> bool:
    """Train a native multimodal model from its last checkpoint to its last step, or until asked to stop. Collective.

    Returns whether it was stopped because its machines are taken back, and wants to go on elsewhere.
    """
    with (
        claim(run, world),
        Stop(world.any, speaks=world.is_main) as stop,
        RollCall(world) as roll_call,
        stream(run, world.data_rank, world.data_size, world.device.torch_device.index) as data,
        Journal(run, world) as journal,
    ):
        journal.say(announcement(run, world))
        held_out = HeldOut(run, world.data_rank, world.data_size) if run.evaluate.sources else None
        model = build(run, world)
        journal.say(training_line(run, part_sizes(model, world)))
        # Before the optimizer, which takes its own copy of bf16 weights.
        if not can_resume(Path(run.folder), world, journal.say):
            initialise(run, model, world, journal.say)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        start = continue_run(run, model, optimizer, data, journal, world)
        journal.say(data_line(run, data))

        for step in range(start + 1, run.steps + 1):
            roll_call.step = step
            batches = data.next_step()
            with telemetry.watch(step):
                losses = forward_backward(model, batches, world, sources=len(data.source_names))
            update = optimizer.step(step)
            stopping = stop.requested()
            saving = stopping or due(run.save.every, step, run.steps) or step in run.save.at
            journal.step(step, losses, update, batches, data, saving=saving)
            journal.telemetry(step, telemetry.read(update))
            if held_out is not None and due(run.evaluate.every, step, run.steps):
                journal.validation(step, evaluate(model, held_out, world))
            if saving or journal.too_many_bad:
                journal.saved(save_run(run, step, model, optimizer, data, journal, world))
            journal.require_few_bad()
            if stopping:
                journal.say(f"stopped after step {step}; start the same command again to continue from there")
                break
        journal.finish()
    return stop.taken_back


def continue_run(
    run: RunConfig, model: torch.nn.Module, optimizer: Optimizer, data: Stream, journal: Journal, world: World
) -> int:
    """Take up the newest intact checkpoint, or the one to branch off from; the step it was saved after, else 0.

    Collective.
    """
    reached = resume(Path(run.folder), model, optimizer, world, journal.say)
    if reached is None and run.init.continue_from:
        reached = branch_off(run, model, optimizer, world, journal.say)
    step, consumed = (0, 0) if reached is None else (reached.step, reached.consumed)
    if reached is not None:
        journal.say(f"continuing after step {step}, {consumed:,} packs consumed")
        if step >= run.steps:
            journal.say(f"nothing to do: all {run.steps} steps are taken; --set steps=... takes more")
    data.seek(consumed, journal.start(step, consumed, data))
    return step


def save_run(
    run: RunConfig,
    step: int,
    model: torch.nn.Module,
    optimizer: Optimizer,
    data: Stream,
    journal: Journal,
    world: World,
) -> SaveReport:
    """Save everything a run needs to continue after ``step``. Collective."""
    reached = Progress(step, data.consumed, to_dict(run))
    return save(Path(run.folder), step, model, optimizer, reached, world, run.save.keep, journal.say, run.save.at)
