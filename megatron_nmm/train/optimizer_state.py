"""Optimizer state in the shapes of the parameters: one form that every layout and both optimizers write and read.

megatron-core stores a sharded and an unsharded optimizer as different trees, so a run could not change between them.
Here both become

    {"step": int, "exp_avg": {parameter: tensor}, "exp_avg_sq": {...}, "fp32_param": {...} (bf16 weights only)}

with ShardedTensor leaves that carry the model's own sharding. megatron-core gathers and scatters the shards. Frozen
parameters have no state; a rank that trains nothing has the step alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from megatron_nmm.parallel.experts import is_expert

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "fp32_param"
PREFIX = "optimizer.state"
"""megatron-core's names, so that its tools recognise the tensors."""


def sharded(wrapped: Any, model: Any, model_state: dict[str, Any], is_loading: bool, *, expert: bool) -> dict[str, Any]:
    """The state of ``wrapped`` (a megatron-core optimizer around AdamW) with the sharding of ``model_state``.

    ``expert``: whether it moves the weights of sparse experts, or all others.
    """
    if wrapped.config.use_distributed_optimizer:
        return {"step": _step(wrapped), **_sharded_over_data(wrapped, model, model_state, is_loading)}
    return {"step": _step(wrapped), **_replicated(wrapped, model, model_state, expert)}


def fill(wrapped: Any, model: Any, state: dict[str, Any], *, expert: bool) -> None:
    """Copy a loaded ``sharded`` tree into ``wrapped``; fp32 weights themselves are the model's and already loaded."""
    for group in wrapped.optimizer.param_groups:
        group["step"] = int(state["step"])
    if wrapped.config.use_distributed_optimizer:
        wrapped.load_parameter_state_from_fully_reshardable(
            {
                index: {
                    "param": state[MASTER][name] if wrapped.config.bf16 else param.data,
                    **{key: state[key][name] for key in MOMENTS},
                }
                for index, (name, param) in enumerate(_buffered(wrapped, model))
            }
        )
        return
    for name, _, master in _masters(model, expert):
        for key, tensor in _live(wrapped, master).items():
            tensor.copy_(state[key][name])


def _step(wrapped: Any) -> int:
    """Optimizer steps taken; the groups step together."""
    return int(wrapped.optimizer.param_groups[0]["step"])


def _replicated(wrapped: Any, model: Any, model_state: dict[str, Any], expert: bool) -> dict[str, Any]:
    """The live tensors, each under the sharding of its parameter."""
    from megatron.core.dist_checkpointing.optimizer import (
        get_param_id_to_sharded_param_map,
        make_sharded_optimizer_tensor,
    )

    masters = list(_masters(model, expert))
    if not masters:
        return {}  # megatron-core warns of an empty map
    shardings = get_param_id_to_sharded_param_map(model_state, (param for _, param, _ in masters))
    state: dict[str, Any] = {}
    for index, (name, _, master) in enumerate(masters):
        for key, tensor in _live(wrapped, master).items():
            leaf = make_sharded_optimizer_tensor(shardings[index], tensor, prefix=f"{PREFIX}.{key}")
            state.setdefault(key, {})[name] = leaf
    return state


def _sharded_over_data(wrapped: Any, model: Any, model_state: dict[str, Any], is_loading: bool) -> dict[str, Any]:
    """The shards of all data ranks gathered to whole tensors (when loading: empty moulds)."""
    gathered = wrapped.sharded_param_state_fully_reshardable(model_state, is_loading, metadata={})
    state: dict[str, Any] = {}
    for index, (name, _) in enumerate(_buffered(wrapped, model)):
        for key in MOMENTS:
            state.setdefault(key, {})[name] = gathered[index][key]
        if wrapped.config.bf16:
            master = gathered[index]["param"]
            key = master.key.replace(f"{PREFIX}.param.", f"{PREFIX}.{MASTER}.", 1)
            state.setdefault(MASTER, {})[name] = replace(master, key=key)
    return state


def _masters(model: Any, expert: bool) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, model parameter, the tensor AdamW steps) of an optimizer that is not sharded over data ranks."""
    for name, param in model.named_parameters():
        if param.requires_grad and is_expert(param) == expert:
            yield name, param, getattr(param, "main_param", param)


def _live(wrapped: Any, master: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors behind one parameter; the fp32 weight of a bf16 run exists nowhere else."""
    moments = {key: wrapped.optimizer.state[master][key] for key in MOMENTS}
    return {**moments, MASTER: master.data} if wrapped.config.bf16 else moments


def _buffered(wrapped: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, model parameter) in the order in which megatron-core numbers a sharded optimizer's parameters."""
    names = {param: name for name, param in model.named_parameters()}
    for buffer in wrapped.buffers:
        for param in buffer.param_index_map:
            yield names[param], param
