"""The weight maps of model families, one table of rows each; the engine that reads them knows none of them.

The keys are the ``model_type`` of config.json, the same as in config/hf_language.py.
"""

from collections.abc import Callable, Mapping

from megatron_nmm.checkpoint.families import internlm2, llama
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.config import ModelConfig

LANGUAGE: Mapping[str, Callable[[ModelConfig, int], tuple[Row, ...]]] = {
    "qwen3": llama.rows,
    "qwen3_moe": llama.sparse_rows,
    "llama": llama.rows,
    "internlm2": internlm2.rows,
}
"""``rows(model, vocabulary)`` of a decoder; ``vocabulary`` is the folder's own, at most ``model.vocabulary``."""
