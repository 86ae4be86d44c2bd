"""Packages outside the core install that a run asks for, found without importing them."""

from collections.abc import Iterator
from importlib.util import find_spec

from megatron_nmm.config.fault import Fault
from megatron_nmm.config.schema import RunConfig


def package_faults(run: RunConfig) -> Iterator[Fault]:
    """A fault for a package that sparse experts need and that is missing."""
    experts = run.model.sparse.experts
    if experts and find_spec("nmm_kernels") is None:
        fact = f"model.sparse.experts {experts} needs the package nmm_kernels, which is not installed"
        yield Fault("model.sparse.experts", fact, "install it with: pip install ./kernels (from the repository)")
