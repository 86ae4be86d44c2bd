"""An export folder: written and read again, by the auto classes, and by its own code where the package is missing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from megatron_nmm.hf import (
    NativeMultimodalConfig,
    NativeMultimodalForConditionalGeneration,
    NativeMultimodalModel,
    NativeMultimodalProcessor,
)
from megatron_nmm.hf.export import AUTO_MAP, code, write_code
from tests.hf.conftest import IMAGES, PROMPTS, Case
from tests.hf.jobs import NEW_TOKENS
from tests.hf.test_model import new_tokens, scores


def written(case: Case, folder: Path) -> Path:
    """The folder that an export is: weights, configuration, tokenizer, processor, code."""
    case.model.save_pretrained(folder)
    case.processor.save_pretrained(folder)
    write_code(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "auto_map": AUTO_MAP}))
    values = json.loads((folder / "processor_config.json").read_text())
    values["auto_map"] = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
    values["image_processor"]["auto_map"] = {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}
    (folder / "processor_config.json").write_text(json.dumps(values))
    return folder


def settings(folder: Path) -> Any:
    """config.json without the type of the encoder's weights, which is the model's."""
    values = json.loads((folder / "config.json").read_text())
    if values["vision_config"]:
        values["vision_config"].pop("dtype")
    return values


def test_a_folder_gives_back_what_was_saved(case: Case, tmp_path: Path) -> None:
    case.model.save_pretrained(tmp_path)
    case.processor.save_pretrained(tmp_path)
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is NativeMultimodalForConditionalGeneration
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = case.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path / "again")
    assert settings(tmp_path / "again") == settings(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is NativeMultimodalProcessor
    again = processor(
        images=[IMAGES[number] for _, numbers in PROMPTS.values() for number in numbers],
        text=[text for text, _ in PROMPTS.values()],
    )
    inputs = case.inputs()
    assert again.keys() == inputs.keys() and all(torch.equal(again[name], inputs[name]) for name in inputs)
    assert torch.equal(scores(model, again), scores(case.model, inputs))


def test_every_auto_class_knows_the_model(case: Case, tmp_path: Path) -> None:
    case.model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is NativeMultimodalConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is NativeMultimodalModel
    for auto in (AutoModelForMultimodalLM, AutoModelForCausalLM):
        assert type(auto.from_pretrained(tmp_path)) is NativeMultimodalForConditionalGeneration


STRANGER = """
import json, sys
sys.modules["megatron_nmm"] = sys.modules["megatron"] = None  # whoever imports them fails
from PIL import Image
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, images, text, tokens = sys.argv[1], sys.argv[2].split(","), sys.argv[3], int(sys.argv[4])
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=[Image.open(image) for image in images], text=text)
made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[:, inputs["input_ids"].shape[1]:]
found = {"module": type(model).__module__, "tokens": made[0].tolist()}
found["text"] = processor.decode(made[0], skip_special_tokens=True)
found["sum"] = float(model(**inputs).logits.double().sum())
print(json.dumps(found))
"""


def stranger(folder: Path, home: Path, images: list[Path], text: str) -> Any:
    """What a process without this package and without a network finds in the folder."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
    }
    arguments = [sys.executable, "-c", STRANGER, folder, ",".join(map(str, images)), text, str(NEW_TOKENS)]
    done = subprocess.run(arguments, env=environment, cwd=home, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home of somebody else."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("case", ["navil"], indirect=True)
def test_the_folder_loads_where_the_package_is_missing(case: Case, tmp_path: Path, home: Path) -> None:
    folder = written(case, tmp_path / "export")
    text, numbers = PROMPTS["several images"]
    images = [tmp_path / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, images, strict=True):
        IMAGES[number].save(path)
    assert type(AutoModelForImageTextToText.from_pretrained(folder)) is NativeMultimodalForConditionalGeneration
    found = stranger(folder, home, images, text)
    inputs = case.inputs("several images")
    assert found["module"].startswith("transformers_modules.")
    (answer,) = new_tokens(case, case.model, inputs)
    assert found["tokens"][: len(answer)] == answer
    assert found["text"] == case.tokenizer.decode(found["tokens"])
    assert found["sum"] == pytest.approx(float(scores(case.model, inputs).double().sum()), rel=1e-5)


def test_the_code_of_an_export_names_all_it_needs(tmp_path: Path) -> None:
    """Older versions of transformers fetch what a class's own file imports, and not what that imports in turn."""
    write_code(tmp_path)
    direct = {
        path.stem: set(re.findall(r"^from \.(\w+) import", path.read_text(), re.M)) for path in tmp_path.iterdir()
    }
    assert direct.keys() == {path.stem for path in code()}
    for target in AUTO_MAP.values():
        named = direct[target.partition(".")[0]]
        assert named <= direct.keys()
        assert all(direct[name] <= named for name in named), target
