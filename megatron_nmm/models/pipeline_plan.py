"""The pipeline stages of a run, planned from its FLOPs: encoder and output layer weigh as much as they compute.

Standard library only, so that ``--check`` can say what a layout costs.
"""

import math

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.models.accounting import IMAGE_SHARE, Flops, Work, causal_pairs, step_flops, view_pairs, window_pairs
from megatron_nmm.models.accounting.flops import decoder_terms
from megatron_nmm.parallel.stages import StageCosts, plan_stages


def stage_layers(run: RunConfig) -> tuple[int, ...]:
    """Decoder layers of each stage: ``parallel.stage_layers``, or the plan whose slowest stage is the cheapest."""
    return run.parallel.stage_layers or plan_stages(run.model.layers, stage_costs(run), run.parallel.stages)


def stage_note(run: RunConfig) -> str:
    """What the stages hold and how uneven they are, in one line; empty for a model that is not cut."""
    if run.parallel.pipeline == 1:
        return ""
    plan, costs = stage_layers(run), stage_costs(run)
    ranks = run.parallel.pipeline
    of_rank = [sum(costs.of(plan)[rank::ranks]) for rank in range(ranks)]
    shares = [cost / sum(of_rank) for cost in of_rank]
    dealt = f", dealt to {ranks} ranks in turn" if run.parallel.virtual_stages > 1 else ""
    images = "the encoder" if run.model.vision.depth else "the patch stem"
    source = "as given" if run.parallel.stage_layers else "planned"
    return (
        f"stages: {' + '.join(map(str, plan))} decoder layers ({source}{dealt}), with {images} on the first and the "
        f"output layer on the last: {', '.join(f'{share:.0%}' for share in shares)} of the FLOPs; the slowest takes "
        f"{max(shares) * ranks:.2f} x the mean"
    )


def stage_costs(run: RunConfig) -> StageCosts:
    """FLOPs of one packed row, forward and backward of what trains: of a layer, of the encoder, of the output layer.

    A layer is the mean of all: where experts make some of them cost more, stages may differ by what those do.
    """
    flops: Flops = step_flops(run.model, typical_row(run), run.optim.rates)
    decoder = sum(flops.by_term.get(name, 0) for name in decoder_terms())
    last = flops.by_term["output_layer"]
    return StageCosts(decoder / run.model.layers, flops.total - decoder - last, last)


def typical_row(run: RunConfig) -> Work:
    """A packed row before any data is read: one document, images of one size at P1's share of the tokens."""
    vision, data = run.model.vision, run.data
    tokens = data.sequence_length
    images = round(IMAGE_SHARE * tokens)
    patches = images * vision.shuffle**2
    if data.image_rule == "square":
        side = data.image_size // vision.patch
    else:
        # Sizes spread over orders of magnitude; half-way between the ends, and never more than the row holds.
        side = math.isqrt(min(math.isqrt(data.min_patches * data.max_patches), max(1, patches)))
    views = patches / side**2
    return Work(
        tokens=tokens,
        attended_pairs=causal_pairs(tokens),
        logit_tokens=tokens - images,
        patches=patches,
        filled_tokens=tokens,
        visual_tokens=images,
        view_pairs=round(views * view_pairs(side, side, vision.class_token)),
        window_pairs=round(views * window_pairs(side, side, vision.window)),
        class_tokens=round(views) if vision.class_unit else 0,
    )
