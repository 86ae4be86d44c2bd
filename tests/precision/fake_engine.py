"""A stand-in for Transformer Engine that computes in plain torch: what its layers take, and nothing more.

SIGNATURES are the parameter names of release 2.18, read from its sources; a layer that is given another name refuses
it. Layers refuse sizes that an 8-bit product refuses. Everything else of the package is there and does nothing.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch.nn.functional import linear, rms_norm

VERSION = "2.18.0"
LINEAR = (
    "in_features out_features sequence_parallel fuse_wgrad_accumulation tp_group tp_size get_rng_state_tracker "
    "init_method bias return_bias params_dtype parallel_mode device ub_overlap_ag ub_overlap_rs ub_name "
    "delay_wgrad_compute name"
)
RECIPE = "fp8_format fp8_dpa fp8_mha backward_override"
SIGNATURES = {
    "Linear": f"{LINEAR} rng_tracker_name parameters_split ub_overlap_rs_dgrad ub_bulk_dgrad ub_bulk_wgrad "
    "symmetric_ar_type save_original_input",
    "LayerNormLinear": f"{LINEAR} eps normalization return_layernorm_output return_layernorm_output_gathered "
    "parameters_split zero_centered_gamma ub_overlap_rs_dgrad ub_bulk_wgrad ub_bulk_dgrad symmetric_ar_type",
    "GroupedLinear": f"{LINEAR} num_gemms rng_tracker_name save_original_input single_grouped_weight "
    "single_grouped_bias",
    "Fp8Padding": "num_gemms align_size",
    "DelayedScaling": f"{RECIPE} margin amax_history_len amax_compute_algo scaling_factor_compute_algo reduce_amax",
    "Float8CurrentScaling": f"{RECIPE} use_power_2_scales fp8_gemm_fprop fp8_gemm_dgrad fp8_gemm_wgrad",
    "Float8BlockScaling": f"{RECIPE} use_f32_scales x_block_scaling_dim w_block_scaling_dim grad_block_scaling_dim "
    "fp8_gemm_fprop fp8_gemm_dgrad fp8_gemm_wgrad",
    "MXFP8BlockScaling": f"{RECIPE} margin",
    "fp8_autocast": "enabled calibrating fp8_recipe fp8_group _graph",
    "fp8_model_init": "enabled recipe preserve_high_precision_init_val",
}
IGNORED = {"DelayedScaling": {"override_linear_precision", "params_dtype", "device"}}
"""What megatron-core 0.19.2 passes all the same: recipes are pydantic dataclasses, which drop unknown names silently.
Hence no run here asks for weight gradients in higher precision, which releases before 2.0 had."""

ENTERED: list[tuple[str, str]] = []
"""Contexts entered: (function, recipe's name)."""


def require(name: str, given: dict[str, Any]) -> None:
    """TypeError for a name that the signature does not have."""
    if unknown := given.keys() - set(SIGNATURES[name].split()) - IGNORED.get(name, set()):
        raise TypeError(f"{name} does not take {', '.join(sorted(unknown))}")


def signed(kind: type) -> str:
    """The nearest ancestor of ``kind``, which may be megatron-core's, that has a signature."""
    return next(each.__name__ for each in kind.__mro__ if each.__name__ in SIGNATURES)


class Recipe:
    """A recipe with its settings; ``current`` is the one whose context is entered."""

    current: "Recipe | None" = None

    def __init__(self, **settings: Any) -> None:
        require(signed(type(self)), settings)
        self.settings = settings


RECIPES = {name: type(name, (Recipe,), {}) for name in SIGNATURES if name.endswith("Scaling")}


class Format(Enum):
    """Names of formats."""

    E4M3 = 1
    HYBRID = 2


def fit(rows: torch.Tensor, *weights: torch.Tensor) -> None:
    """ValueError for sizes that a product in the entered recipe does not take."""
    if Recipe.current is None:
        return
    recipe = signed(type(Recipe.current))
    row, column = (32, 32) if recipe.startswith("MX") else (8, 16)
    for tensor in (rows, *weights):
        if tensor.shape[:-1].numel() % row or tensor.shape[-1] % column:
            raise ValueError(f"{recipe} does not take {tuple(tensor.shape)}")


class Layer(torch.nn.Module):
    """What the layers share: sizes of this rank, and a state beside the weights that is a pickle."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        require(signed(type(self)), given)
        size, mode = given["tp_size"], given["parallel_mode"]
        self.in_features = given["in_features"] // (size if mode == "row" else 1)
        self.out_features = given["out_features"] // (size if mode == "column" else 1)
        self.use_bias, self.parallel_mode, self.tp_size = given["bias"], mode, size
        self.save_original_input = given.get("save_original_input", False)
        self._options = {"dtype": given["params_dtype"], "device": given["device"]}

    def matrix(self) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.zeros(self.out_features, self.in_features, **self._options))

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        assert state is None or not len(state)


class Linear(Layer):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.weight = self.matrix()
        self.bias = torch.nn.Parameter(torch.zeros(self.out_features, **self._options)) if self.use_bias else None

    def forward(self, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> torch.Tensor:
        fit(inp, self.weight)
        return linear(inp, self.weight, self.bias)


class LayerNormLinear(Linear):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        assert given["normalization"] == "RMSNorm"
        self.eps = given["eps"]
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(self.in_features, **self._options))

    def forward(self, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> torch.Tensor:
        return super().forward(rms_norm(inp, (self.in_features,), self.layer_norm_weight, self.eps))


class GroupedLinear(Layer):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.num_gemms = given["num_gemms"]
        self.fp8 = self.fp8_calibration = False
        self.fp8_meta: dict[str, Any] = {"fp8_checkpoint": False, "recipe": None}
        for number in range(self.num_gemms):
            setattr(self, f"weight{number}", self.matrix())

    def init_fp8_metadata(self, num_gemms: int) -> None:
        """Nothing to prepare."""

    def forward(self, inp: torch.Tensor, m_splits: list[int], is_first_microbatch: bool | None = None) -> torch.Tensor:
        assert sum(m_splits) == len(inp)
        weights = [getattr(self, f"weight{number}") for number in range(self.num_gemms)]
        for rows, weight in zip(inp.split(m_splits), weights, strict=True):
            fit(rows, weight)
        return torch.cat([linear(rows, weight) for rows, weight in zip(inp.split(m_splits), weights, strict=True)])


class Fp8Padding(torch.nn.Module):
    def __init__(self, *sizes: int, **given: Any) -> None:
        super().__init__()
        require("Fp8Padding", given)


@contextmanager
def fp8_autocast(**given: Any) -> Iterator[None]:
    require("fp8_autocast", given)
    before, Recipe.current = Recipe.current, given["fp8_recipe"]
    ENTERED.append(("fp8_autocast", signed(type(Recipe.current))))
    try:
        yield
    finally:
        Recipe.current = before


@contextmanager
def fp8_model_init(
    enabled: bool = True, recipe: Any = None, preserve_high_precision_init_val: bool = False
) -> Iterator[None]:
    ENTERED.append(("fp8_model_init", signed(type(recipe))))
    yield


def general_gemm(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype, layout: str, **_: Any) -> list[torch.Tensor]:
    """[product], as the routers of sparse experts ask for: b times a, the first letter of ``layout`` turning a."""
    a, b = a.to(out_dtype), b.to(out_dtype)
    return [(b.t() if layout[1] == "T" else b) @ (a.t() if layout[0] == "T" else a)]


NAMES: dict[str, Any] = {
    "__version__": VERSION,
    "Linear": Linear,
    "LayerNormLinear": LayerNormLinear,
    "GroupedLinear": GroupedLinear,
    "Fp8Padding": Fp8Padding,
    "Fp8Unpadding": type("Fp8Unpadding", (Fp8Padding,), {}),
    "Format": Format,
    "general_gemm": general_gemm,
    "_SplitAlongDim": SimpleNamespace(apply=lambda tensor, dim, sizes: tensor.split(sizes, dim)),
    "get_cpu_offload_context": lambda *_, **__: (nullcontext(), lambda tensor: tensor),
    "fp8_autocast": fp8_autocast,
    "fp8_model_init": fp8_model_init,
    **RECIPES,
}


SUBPACKAGES = ("pytorch", "common", "recipe")


class FakeModule(ModuleType):
    """Has every name: those above, a class for others that begin with a capital, a mock for the rest."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in NAMES:
            return NAMES[name]
        if name.startswith("__"):
            raise AttributeError(name)
        if name in SUBPACKAGES:
            return importlib.import_module(f"{self.__name__}.{name}")
        made: Any = MagicMock()
        if name[0].isupper():
            made = type(name, (torch.nn.Module,), {"__init__": lambda self, *a, **k: torch.nn.Module.__init__(self)})
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the package and whatever is asked for below it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] != "transformer_engine":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return FakeModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs."""


def install() -> None:
    """From now on ``import transformer_engine`` finds this; call it before megatron-core is imported."""
    assert "megatron.core" not in sys.modules
    sys.meta_path.insert(0, Finder())
