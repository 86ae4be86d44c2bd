"""Sparse experts: what their number, their layers and the ranks that share them ask of each other."""

from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, divisors, multiples_around, use
from megatron_nmm.config.schema import RunConfig


def experts_are_enough(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A token takes at most every expert once."""
    sparse = run.model.sparse
    if sparse.experts and sparse.top_k > sparse.experts:
        fact = f"model.sparse.top_k {sparse.top_k} is more than model.sparse.experts {sparse.experts}"
        choices = ("model.sparse.top_k", sparse.top_k, [sparse.experts])
        yield Fault("model.sparse.top_k", fact, use(choices, ("model.sparse.experts", sparse.experts, [sparse.top_k])))


def some_layer_is_sparse(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Dense layers are layers of the decoder, and leave at least one to the experts."""
    model, dense = run.model, run.model.sparse.dense_layers
    if not model.sparse.experts:
        return
    kept = sorted({layer for layer in dense if layer < model.layers})
    if beyond := [layer for layer in dense if layer >= model.layers]:
        last = model.layers - 1
        fact = f"model.sparse.dense_layers names layer {beyond[0]}, and model.layers {model.layers} ends at {last}"
        yield Fault("model.sparse.dense_layers", fact, use(("model.sparse.dense_layers", 0, str(kept))))
    elif not model.sparse_layers:
        fact = f"model.sparse.dense_layers {kept} leaves no layer to the {model.sparse.experts} experts"
        none = ("model.sparse.dense_layers", 0, "[]")
        yield Fault("model.sparse.dense_layers", fact, use(none, ("model.sparse.experts", 1, [0])))


def one_sort_of_experts(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """An MLP is chosen by a router or by the token's modality."""
    model = run.model
    if model.sparse.experts and model.modality_experts != "none":
        fact = (
            f"model.sparse.experts {model.sparse.experts} and model.modality_experts {model.modality_experts} both "
            "take the place of the MLP"
        )
        yield Fault("model.sparse.experts", fact, "use model.modality_experts none, or model.sparse.experts 0")


def ranks_share_experts(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The experts divide over their ranks, and those ranks are whole groups of a stage's."""
    sparse, parallel = run.model.sparse, run.parallel
    if parallel.expert == 1:
        return
    if not sparse.experts:
        fact = f"parallel.expert {parallel.expert} spreads sparse experts, and the model has none"
        more = ("model.sparse.experts", 0, multiples_around(8, parallel.expert))
        yield Fault("parallel.expert", fact, use(("parallel.expert", parallel.expert, [1]), more))
        return
    stage = world_size // parallel.pipeline
    whole = world_size % parallel.of_copy == 0
    legal = [size for size in divisors(sparse.experts) if not whole or stage % size == 0]
    if sparse.experts % parallel.expert:
        fact = f"model.sparse.experts {sparse.experts} is not divisible by parallel.expert {parallel.expert}"
        more = ("model.sparse.experts", sparse.experts, multiples_around(sparse.experts, parallel.expert))
        yield Fault("parallel.expert", fact, use(("parallel.expert", parallel.expert, legal), more))
    elif whole and stage % parallel.expert:
        fact = (
            f"the {stage} processes of a pipeline stage (world size {world_size} / parallel.pipeline "
            f"{parallel.pipeline}) are not divisible by parallel.expert {parallel.expert}"
        )
        sizes = ("a world size of", world_size, multiples_around(world_size, parallel.processes))
        yield Fault("parallel.expert", fact, use(("parallel.expert", parallel.expert, legal), sizes))


def experts_see_whole_sequences(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Ranks of a tensor group that hold the same tokens would send each of them to its experts several times."""
    parallel = run.parallel
    if run.model.sparse.experts and parallel.tensor > 1 and not parallel.sequence:
        fact = (
            f"parallel.tensor {parallel.tensor} without parallel.sequence gives every tensor rank the same tokens, and "
            "sparse experts would meet each of them that often"
        )
        yield Fault("parallel.sequence", fact, use(("parallel.sequence", 0, "true"), ("parallel.tensor", 2, "1")))


def dispatcher_suits_device(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """DeepEP talks from GPU to GPU."""
    if run.model.sparse.experts and run.parallel.dispatcher == "deepep" and run.device == "cpu":
        fact = "parallel.dispatcher deepep runs on GPUs, and device is cpu"
        yield Fault("parallel.dispatcher", fact, "use parallel.dispatcher kernels, alltoall or allgather")
