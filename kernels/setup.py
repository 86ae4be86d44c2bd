"""Package metadata of nmm_kernels; ``pip install ./kernels`` compiles what build.py finds the tools for.

Where a compiler is missing the package is installed all the same, and the PyTorch references serve.
"""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# A build front end runs this file without its folder on the path.
sys.path.insert(0, str(ROOT))

from build import LIBRARIES, PACKAGE, SUFFIX, build  # noqa: E402 - found on the path that the line above makes


class BuildLibraries(build_ext):
    """Hands the work to build.py, for the compiler it wants is not the one that setuptools would take."""

    def run(self) -> None:
        """Build into the folder that becomes the wheel, or in place for an editable install."""
        folder = self.target()
        folder.mkdir(parents=True, exist_ok=True)
        for line in build(folder):
            print(f"[kernels] {line}", flush=True)

    def target(self) -> Path:
        """Where the libraries belong."""
        return PACKAGE if self.inplace or self.editable_mode else Path(self.build_lib) / PACKAGE.name

    def get_outputs(self) -> list[str]:
        """The libraries that were built."""
        return [str(path) for stem in LIBRARIES if (path := self.target() / f"{stem}{SUFFIX}").exists()]

    def get_source_files(self) -> list[str]:
        """None beyond what package_data names."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is built elsewhere and copied here."""
        return {}


setup(
    name="nmm_kernels",
    version="0.1.0",
    description="Dispatch operators for sparse mixtures of experts, on CPU and CUDA",
    license="Apache-2.0",
    python_requires=">=3.12",
    packages=find_packages(include=["nmm_kernels", "nmm_kernels.*"]),
    package_data={"nmm_kernels": ["csrc/*"]},
    install_requires=["torch>=2.10"],
    ext_modules=[Extension(f"nmm_kernels.{stem}", sources=[], py_limited_api=True) for stem in LIBRARIES],
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp312"}},
)
