"""Which parts of a model may be new, and what becomes of them."""

from megatron_nmm.checkpoint.grow import growth

TEXT = {"decoder.layers.0.self_attention.linear_qkv.weight", "decoder.layers.0.mlp.linear_fc1.weight"}
VISUAL = {"decoder.layers.0.self_attention.visual.linear_qkv.weight", "decoder.layers.0.mlp.visual.linear_fc1.weight"}


def test_visual_experts_are_copies_of_their_text_twins() -> None:
    plan = growth(TEXT | VISUAL, TEXT, "it")
    assert dict(plan.copies) == {name: name.replace(".visual.", ".") for name in VISUAL}
    assert plan.drawn == frozenset()
    assert plan.remarks == (
        "it has no attention weights of visual experts: they begin as 1 copies of text weights",
        "it has no MLPs of visual experts: they begin as 1 copies of text weights",
    )


def test_a_part_that_is_there_is_not_new() -> None:
    plan = growth(TEXT | VISUAL, TEXT | {"decoder.layers.0.mlp.visual.linear_fc1.weight"}, "it")
    assert set(plan.copies) == {"decoder.layers.0.self_attention.visual.linear_qkv.weight"}


def test_half_a_part_is_left_to_be_missed() -> None:
    wanted = {f"vision_encoder.block.layers.{layer}.mlp_bda.weight" for layer in (0, 1)}
    assert growth(wanted, {"vision_encoder.block.layers.0.mlp_bda.weight"}, "it").drawn == frozenset()


def test_image_parts_stay_as_drawn_and_an_encoder_that_follows_goes_unremarked() -> None:
    wanted = {"vision_encoder.connector.fc1.weight", "special_embedding.weight"}
    plan = growth(wanted, TEXT, "it")
    assert plan.drawn == wanted
    assert plan.remarks == (
        "it has no vision encoder: drawn at random",
        "it has no special embeddings: drawn at random",
    )
    follows = growth(wanted, TEXT, "it", encoder_follows=True)
    assert follows.drawn == wanted and follows.remarks == plan.remarks[1:]


def test_a_copy_needs_its_original() -> None:
    assert growth(VISUAL, {"output_layer.weight"}, "it").copies == {}
