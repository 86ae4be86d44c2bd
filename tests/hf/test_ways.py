"""One model, several ways to run it: eager or fused attention, with checkpointing, in bf16; and what it refuses."""

from typing import Any

import pytest
import torch

from megatron_nmm.hf import NativeMultimodalConfig, NativeMultimodalForConditionalGeneration
from tests.hf.conftest import PROMPTS, Case
from tests.hf.test_model import close, new_tokens, rows, scores

Model = NativeMultimodalForConditionalGeneration


def loss_and_gradients(model: Model, inputs: Any) -> tuple[float, dict[str, torch.Tensor | None]]:
    """Of one training step on ``inputs``."""
    model.train().zero_grad()
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.eval().zero_grad()
    return loss.item(), gradients


def test_eager_attention_is_fused_attention(case: Case) -> None:
    inputs = case.inputs()
    fused = scores(case.model, inputs)
    case.model.set_attn_implementation("eager")
    try:
        assert case.model.config._attn_implementation == "eager"
        eager = scores(case.model, inputs)
        assert new_tokens(case, case.model, inputs) == case.answers
        weights = case.model(**inputs, output_attentions=True).attentions
    finally:
        case.model.set_attn_implementation("sdpa")
    for row, expected in zip(rows(eager, inputs["attention_mask"]), rows(fused, inputs["attention_mask"]), strict=True):
        assert close(row, expected)
    assert len(weights) == case.run.model.layers
    assert torch.allclose(weights[0].sum(-1), torch.ones(()))


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool, case: Case) -> None:
    inputs = case.inputs()
    loss, expected = loss_and_gradients(case.model, inputs)
    case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    try:
        assert case.model.is_gradient_checkpointing
        again, gradients = loss_and_gradients(case.model, inputs)
    finally:
        case.model.gradient_checkpointing_disable()
    assert again == loss
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        found = gradients[name]
        # Experts that no token chose have none.
        assert (gradient is None) == (found is None), name
        if gradient is not None and found is not None:
            assert close(found, gradient), name


def test_every_trained_weight_has_a_gradient(case: Case) -> None:
    _, gradients = loss_and_gradients(case.model, case.inputs())
    idle = [name for name, gradient in gradients.items() if gradient is None and ".experts." not in name]
    assert idle == []


def test_hidden_states_end_with_what_the_output_layer_takes(case: Case) -> None:
    outputs = case.model(**case.inputs("one image"), output_hidden_states=True)
    assert len(outputs.hidden_states) == case.run.model.layers + 1
    assert torch.equal(case.model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    last = case.model(**case.inputs("one image"), logits_to_keep=1).logits
    assert close(last, outputs.logits[:, -1:])


def test_embeddings_of_text_serve_in_place_of_tokens(case: Case) -> None:
    inputs = case.inputs("text")
    rows = case.model.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(case.model(inputs_embeds=rows).logits, case.model(**inputs).logits)


def test_bf16_is_near(case: Case) -> None:
    inputs = case.inputs()
    expected = scores(case.model, inputs)
    found = scores(
        Model.from_pretrained(None, config=case.model.config, state_dict=case.model.state_dict(), dtype=torch.bfloat16),
        inputs,
    )
    assert found.dtype == torch.bfloat16
    for row, wide in zip(
        rows(found.float(), inputs["attention_mask"]), rows(expected, inputs["attention_mask"]), strict=True
    ):
        assert torch.nn.functional.cosine_similarity(row.flatten(), wide.flatten(), 0) > 0.9


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"input_ids": None}, "give exactly one of them"),
    "pixels without grids": ({"image_grid_hw": None}, "belong together"),
    "another grid": ({"image_grid_hw": torch.tensor([[2, 2]])}, "image_grid_hw say 4 patches, pixel_values hold 16"),
    "images for embeddings": ({"input_ids": None, "inputs_embeds": torch.zeros(1, 2, 32)}, "give input_ids"),
    "a mask of other length": (
        {"attention_mask": torch.ones(1, 3)},
        r"attention_mask has shape \[1, 3\]; give \[rows, ",
    ),
}


@pytest.fixture(scope="module")
def early(tokenizer: Any) -> Any:
    """A model of random weights and the processor's inputs of one image."""
    from tests.hf.conftest import IMAGES
    from tests.hf.mapping import config_of, processor_of
    from tests.hf.variants import run_of

    run = run_of("early", tokenizer)
    inputs = processor_of(run, tokenizer)(images=IMAGES[0], text=PROMPTS["one image"][0])
    return Model(config_of(run, tokenizer)).eval(), inputs


@pytest.mark.parametrize("name", REFUSED)
def test_inputs_that_contradict_each_other_are_refused(name: str, early: Any) -> None:
    model, inputs = early
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, **changes})


def test_placeholders_and_patches_must_agree(early: Any) -> None:
    model, inputs = early
    twice = {**inputs, "input_ids": inputs["input_ids"].repeat(1, 2), "attention_mask": None}
    with pytest.raises(ValueError, match="input_ids have 32 image placeholders, pixel_values make 16 image tokens"):
        model(**twice)


def test_a_cache_of_fixed_size_is_refused(early: Any) -> None:
    model, inputs = early
    with pytest.raises(ValueError, match="use DynamicCache"):
        model.generate(**inputs, max_new_tokens=2, cache_implementation="static")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_mask": "none"}, "image_mask 'none' is unknown; use bidirectional or causal"),
        ({"modality_experts": "some"}, "modality_experts 'some' is unknown; use none or ffn or all"),
        ({"score_function": "relu"}, "score_function 'relu' is unknown; use softmax or sigmoid"),
        ({"vision_config": {"connector": "conv"}}, "connector 'conv' is unknown"),
        ({"vision_config": {"mlp": "relu"}}, "mlp 'relu' is unknown; use swiglu or gelu"),
        (
            {"num_hidden_layers": 2, "sparse_layers": [0, 2]},
            r"sparse_layers \[2\] are no layers; use numbers from 0 to 1",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NativeMultimodalConfig(**values)
