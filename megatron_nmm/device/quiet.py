"""Remarks of the libraries below that a user of this package can do nothing about, kept off the console."""

import logging
import warnings

REMARKS: tuple[tuple[str, type[Warning]], ...] = (
    # megatron-core warns about its own default of cuda_graph_modules.
    ("full scope is deprecated", UserWarning),
    # megatron-core's layers still call the collectives by their former names.
    (r"`torch\.distributed\.\w+` is deprecated", FutureWarning),
    # Absent on purpose outside NVIDIA's containers; the spec chosen by the device does not use them.
    ("(Transformer Engine and )?Apex (is|are) not installed", UserWarning),
    # Selective recomputation asks whether attention is Transformer Engine's; it is ours.
    ("If you are using transformer_engine as the transformer implementation", UserWarning),
    # Buckets are gathered in the order in which parts were built; images enter the model behind the embeddings.
    ("The next bucket's parameter all-gather", UserWarning),
    # torch_dist checkpoints still go through these.
    ("TypedStorage is deprecated", UserWarning),
)
"""Start of the message (regular expression) and its category."""


LOGGERS = (
    # "full_param_layout not provided": computing it inside DistributedDataParallel is what we want.
    "megatron.core.distributed.distributed_data_parallel",
    # "No CUDA runtime is found": a toolkit without a GPU is how kernels are compiled and checked here.
    "torch.utils.cpp_extension",
)
"""Loggers whose warnings are of that sort; their errors still show."""


def install() -> None:
    """Ignore ``REMARKS`` and ``LOGGERS``; everything else still reaches the console."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message, category in REMARKS:
        warnings.filterwarnings("ignore", message=message, category=category)
