"""The sums over the tensor group that megatron-core's end of a step leaves out.

It sums gradients of weights that tensor ranks hold alike only in its own cases: those under sequence parallelism, and
q/k-norms when the decoder has them. Others (a vision encoder that ranks run on different images) are marked here.
"""

from typing import Any, cast

import torch
import torch.distributed as dist

from megatron_nmm.parallel.unwritten import zero_unwritten

MARK = "sum_over_tensor_group"


def sum_over_tensor_group(p: torch.nn.Parameter) -> None:
    """Mark a parameter: tensor ranks hold it alike, and each computes only a part of its gradient."""
    setattr(p, MARK, True)


def finalize_gradients(
    model: list[torch.nn.Module],
    num_tokens: torch.Tensor | None = None,
    pg_collection: Any = None,
    force_all_reduce: bool | None = False,
) -> None:
    """megatron-core's ``finalize_model_grads``, then the sums over the tensor group of the marked parameters.

    Gradients that nothing has written become zero first. Frozen parameters have no gradient and are left out.
    ``num_tokens`` is not divided by: the loss was (schedule.py).
    """
    from megatron.core import parallel_state
    from megatron.core.distributed import finalize_model_grads

    for chunk in model:
        zero_unwritten(chunk)
    finalize_model_grads(model, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)
    group = pg_collection.tp if pg_collection is not None else parallel_state.get_tensor_model_parallel_group()
    if dist.get_world_size(group) > 1:
        for chunk in model:
            _sum_marked(chunk, group)


def _sum_marked(model: torch.nn.Module, group: Any) -> None:
    """Sum what is marked and trains, and what megatron-core has not summed already."""
    config = cast(Any, model).config
    for name, p in model.named_parameters():
        if p.requires_grad and getattr(p, MARK, False) and not _summed_by_megatron(name, p, config):
            dist.all_reduce(cast(Any, p).main_grad, group=group)


def _summed_by_megatron(name: str, p: torch.nn.Parameter, config: Any) -> bool:
    """The condition of megatron-core's ``_allreduce_non_tensor_model_parallel_grads``: nothing is summed twice."""
    split_rows = config.sequence_parallel and getattr(p, "sequence_parallel", False)
    return bool(split_rows or (config.qk_layernorm and ("q_layernorm" in name or "k_layernorm" in name)))
