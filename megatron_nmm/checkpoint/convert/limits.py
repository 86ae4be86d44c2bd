"""What a model must be to be written in somebody else's form: one setting each, with the value that the form has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_nmm.checkpoint.convert.native_config import at
from megatron_nmm.config import RunConfig


@dataclass(frozen=True)
class Limit:
    """A setting and the value it must have."""

    key: str
    """E.g. ``model.qk_norm``."""
    wanted: Any
    """The value; or what it must be, in words, with ``holds_for``."""
    holds_for: Callable[[RunConfig], bool] | None = None

    def holds(self, run: RunConfig) -> bool:
        """Whether ``run`` keeps it."""
        return bool(at(run, self.key) == self.wanted if self.holds_for is None else self.holds_for(run))

    def told(self, run: RunConfig) -> str:
        """The fault in words."""
        return f"{self.key} is {at(run, self.key)}, that form has {self.wanted}"
