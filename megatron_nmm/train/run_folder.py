"""One run per folder: the folder is locked while it runs, and remembers the configuration it belongs to."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint.agree import RankFailure, on_main
from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import load, save, to_dict
from megatron_nmm.errors import ConfigError
from megatron_nmm.files.lock import hold
from megatron_nmm.parallel.world import World

CONFIG = "config.json"

FREE = (
    "name",
    "folder",
    "steps",
    "device",
    "threads",
    "parallel.",
    "data.tokenizer",
    "data.microbatch",
    "data.workers",
    "data.train.",
    "data.share_of",
    "data.temperature",
    "data.decoder",
    "data.max_bad",
    "data.max_bad_share",
    "save.",
    "evaluate.",
    "journal.",
)
"""Keys (a dot at the end: all keys below) that may differ when a run is continued: they say how long, where and how
fast, not what is learnt. The tokenizer's path may move; the corpus names the tokenizer it was made with. The mixture is
learnt from, but training in stages changes it on purpose: the run says so, and the ledger keeps both."""


@contextmanager
def claim(run: RunConfig, world: World) -> Iterator[Path]:
    """Be the only run in ``run.folder`` inside the block, with ``run`` saved there as config.json. Collective.

    Raises ConfigError, the same on every rank, when another process runs there or the folder holds another run.
    """
    folder = Path(run.folder)
    with ExitStack() as held:
        try:
            on_main(world, "claiming the run's folder", lambda: _claim(folder, run, held))
        except RankFailure as failure:
            raise ConfigError(str(failure)) from failure
        yield folder


def _claim(folder: Path, run: RunConfig, held: ExitStack) -> None:
    held.enter_context(hold(folder))
    if (folder / CONFIG).exists():
        require_same(load(folder / CONFIG), run)
    save(run, folder / CONFIG)


def require_same(before: RunConfig, run: RunConfig) -> None:
    """Raise ConfigError unless ``run`` continues ``before``, naming every value that differs and may not."""
    if changed := differences(to_dict(before), to_dict(run), FREE):
        raise ConfigError(
            f"{run.folder} holds another run: {'; '.join(changed)}. Give this run a folder of its own "
            f"(--set folder=..., and --set init.checkpoint={run.folder} to begin with the old one's weights), continue "
            f"the old one (--config {Path(run.folder) / CONFIG}), or remove the folder"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], free: tuple[str, ...]) -> list[str]:
    """Every value that differs between two configurations as JSON trees, but for the keys that begin as ``free`` do."""
    old, new = _flat(before), _flat(now)
    return [
        f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]


def _flat(tree: Mapping[str, Any] | list[Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaves."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    flat: dict[str, Any] = {}
    for key, value in items:
        if isinstance(value, Mapping | list):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
