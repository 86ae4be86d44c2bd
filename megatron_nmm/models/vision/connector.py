"""From encoder rows to decoder tokens: the connectors as a table.

w encoder width, H decoder width, s side of the square of patches that becomes one token. Small beside the encoder,
hence whole on every tensor rank, which runs it on its own rows.
"""

from collections.abc import Callable
from typing import Any

import torch

from megatron_nmm.config.schema_model import Connector, VisionConfig

Build = Callable[[int, int, Any], torch.nn.Module]
"""(w, H, decoder's TransformerConfig) -> module."""


class LinearConnector(torch.nn.Module):
    """[P, w] -> [P, H] by one matrix."""

    def __init__(self, width: int, hidden: int, config: Any) -> None:
        super().__init__()
        self.linear = _linear(width, hidden, config)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Each patch becomes one token."""
        out: torch.Tensor = self.linear(rows)
        return out


class MlpConnector(torch.nn.Module):
    """[P, w] -> [P, H] by two matrices with GELU between them."""

    def __init__(self, width: int, hidden: int, config: Any) -> None:
        super().__init__()
        self.fc1 = _linear(width, hidden, config)
        self.fc2 = _linear(hidden, hidden, config)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Each patch becomes one token."""
        out: torch.Tensor = self.fc2(torch.nn.functional.gelu(self.fc1(rows)))
        return out


class PixelShuffleConnector(MlpConnector):
    """[P, w] -> [P / s^2, H]: s x s patches side by side, LayerNorm, then the MLP (NaViL's released code)."""

    SIDE = 2

    def __init__(self, width: int, hidden: int, config: Any) -> None:
        merged = self.SIDE**2 * width
        super().__init__(merged, hidden, config)
        self.norm = torch.nn.LayerNorm(merged, dtype=config.params_dtype)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` come in whole merge groups, row by row inside each."""
        return super().forward(self.norm(rows.reshape(-1, self.norm.weight.numel())))


CONNECTORS: dict[Connector, Build] = {
    "linear": LinearConnector,
    "mlp": MlpConnector,
    "pixel_shuffle": PixelShuffleConnector,
}
"""What stands behind VisionConfig.connector."""


def connector(vision: VisionConfig, config: Any) -> torch.nn.Module:
    """The connector of ``vision`` into a decoder with this TransformerConfig; its ``init_method`` draws the weights."""
    return CONNECTORS[vision.connector](vision.width, config.hidden_size, config)


def _linear(inputs: int, outputs: int, config: Any) -> torch.nn.Linear:
    layer = torch.nn.Linear(inputs, outputs, dtype=config.params_dtype)
    with torch.no_grad():
        config.init_method(layer.weight)
        layer.bias.zero_()
    return layer
