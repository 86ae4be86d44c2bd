"""A whole NaViL model as its released code names it: InternLM2's or Qwen3's decoder with experts, and its encoder."""

from megatron_nmm.checkpoint.families import internlm2, llama
from megatron_nmm.checkpoint.families.navil_vision import CONNECTOR, OURS, affine, encoder
from megatron_nmm.checkpoint.rows import Row, Same
from megatron_nmm.config import ModelConfig

LANGUAGE, VISION = "language_model.", "vision_model."


def rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """Every tensor of ``model``; norms of queries and keys tell the Qwen3 variant from InternLM2's."""
    decoder = llama.decoder if model.qk_norm else internlm2.decoder
    found = [*decoder(model, vocabulary, LANGUAGE, visual=True), *encoder(model.vision, VISION)]
    for ours, theirs in CONNECTOR.items():
        found += affine(f"{OURS}connector.{ours}", theirs)
    return (*found, Same("special_embedding.weight", "special_token_embedding.weight"))
