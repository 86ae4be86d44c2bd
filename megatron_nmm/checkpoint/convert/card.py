"""The proof card of an export: hashes of its files, and how far its scores are from those of the trained model.

Beside ``proof.json`` lies ``proof.safetensors`` with the probes and the trained model's answers, so ``verify`` needs
the folder alone: it hashes every file and asks the export again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from megatron_nmm.checkpoint.convert.exported import Answers
from megatron_nmm.checkpoint.convert.probes import Probe
from megatron_nmm.config.values import read_json
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import durable

CARD, ANSWERS = "proof.json", "proof.safetensors"
FORMAT = 1
LIMIT = 1e-5
"""Largest difference of scores, relative to the largest score of a probe, both models computing in fp32."""
COLUMNS = 1024
"""Vocabulary rows whose scores are kept, evenly spread."""
GREEDY = 8
"""Tokens that both models add to each probe."""
SHOWN = 3
"""Faults named in a message."""


@dataclass(frozen=True)
class Comparison:
    """One probe, answered by both models."""

    probe: str
    tokens: int
    patches: int
    largest: float
    """Largest score in absolute value."""
    difference: float
    """Largest absolute difference."""
    greedy: bool
    """Whether the tokens that follow are the same."""

    @property
    def relative(self) -> float:
        """Largest difference, relative to the largest score."""
        return self.difference / self.largest if self.largest else float("inf")

    @property
    def passes(self) -> bool:
        """Whether the two are one model; a difference that is no number does not."""
        return self.relative <= LIMIT and self.greedy


@dataclass(frozen=True)
class Card:
    """What the file says."""

    family: str
    step: int
    dtype: str
    mapped: int
    files: Mapping[str, str]
    """Name -> sha256 of every file of the folder, the card aside."""
    comparisons: Sequence[Comparison]
    """Empty where no library holds the code of the family."""


def remember(folder: Path, trained: Answers, probes: Sequence[Probe]) -> None:
    """Write the probes and the trained model's answers into ``folder``."""
    kept: dict[str, torch.Tensor] = {}
    for number, probe in enumerate(probes):
        kept |= {
            f"{number}.{probe.name}.tokens": probe.tokens,
            f"{number}.{probe.name}.patches": probe.patches,
            f"{number}.{probe.name}.grids": probe.grids,
            f"{number}.{probe.name}.scores": _columns(trained.scores(probe)).clone(),
            f"{number}.{probe.name}.greedy": torch.tensor(trained.greedy(probe, GREEDY)),
        }
    durable.write(folder / ANSWERS, save(kept))


def compare(folder: Path, exported: Answers) -> list[Comparison]:
    """Ask the export what the trained model was asked."""
    try:
        kept = load_file(folder / ANSWERS)
    except (OSError, SafetensorError) as fault:
        raise CheckpointError(f"{folder / ANSWERS} cannot be read ({fault}); export again") from fault
    found = []
    for name in sorted({name.rpartition(".")[0] for name in kept}):
        probe = Probe(name.partition(".")[2], *(kept[f"{name}.{part}"] for part in ("tokens", "patches", "grids")))
        expected, scores = kept[f"{name}.scores"], _columns(exported.scores(probe))
        if scores.shape != expected.shape:
            raise CheckpointError(
                f"the export in {folder} scores {tuple(scores.shape)} where {tuple(expected.shape)} were trained: it "
                "is of another vocabulary; export again"
            )
        found.append(
            Comparison(
                probe.name,
                len(probe.tokens),
                len(probe.patches),
                float(expected.abs().max()),
                float((scores - expected).abs().max()),
                exported.greedy(probe, GREEDY) == kept[f"{name}.greedy"].tolist(),
            )
        )
    return found


def _columns(scores: torch.Tensor) -> torch.Tensor:
    """[S, C] of [S, V]."""
    rows = scores.shape[1]
    chosen = torch.linspace(0, rows - 1, min(COLUMNS, rows), dtype=torch.float64).round().long()
    return scores[:, chosen]


def hashes(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file in ``folder`` but the card."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD)
    found = {}
    for path in files:
        with path.open("rb") as stream:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def write(folder: Path, card: Card) -> None:
    """Write the card. Raises CheckpointError when a comparison fails: such a folder is no export."""
    require(card.comparisons, str(folder))
    tree = {"format": FORMAT, **asdict(card), "limit": LIMIT}
    durable.write(folder / CARD, (json.dumps(tree, indent=2) + "\n").encode())


def require(comparisons: Sequence[Comparison], where: str) -> None:
    """Raise CheckpointError naming the probes on which the two models differ."""
    if wrong := [one for one in comparisons if not one.passes]:
        told = "; ".join(
            f"{one.probe}: scores differ by {one.relative:.1e} of the largest, "
            f"{'the same' if one.greedy else 'other'} greedy tokens"
            for one in wrong
        )
        raise CheckpointError(f"{where} is not the model that was trained: {told} (limit {LIMIT:g}); export again")


def read(folder: Path) -> Card:
    """The card of an export. Raises CheckpointError when there is none or it makes no sense."""
    try:
        tree: dict[str, Any] = read_json((folder / CARD).read_text("utf-8"))
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}, this version reads {FORMAT}")
        comparisons = [Comparison(**each) for each in tree["comparisons"]]
        files = {str(name): str(digest) for name, digest in tree["files"].items()}
        return Card(tree["family"], tree["step"], tree["dtype"], tree["mapped"], files, comparisons)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(
            f"{folder / CARD} cannot be read ({type(fault).__name__}: {fault}); export again"
        ) from fault


def verify(folder: Path, openers: Mapping[str, Callable[[Path], Answers]]) -> Card:
    """Hash every file of ``folder`` against its card, then ask the export again; the card with today's comparisons.

    Raises CheckpointError naming files that lack, are too many or have changed, and probes that come out otherwise.
    """
    card = read(folder)
    now = hashes(folder)
    faults = [f"{name} is missing" for name in sorted(card.files.keys() - now.keys())]
    faults += [f"{name} is not on its card" for name in sorted(now.keys() - card.files.keys())]
    faults += [
        f"{name} has changed since the export (its sha256 is not the card's)"
        for name in sorted(now.keys() & card.files.keys())
        if now[name] != card.files[name]
    ]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckpointError(f"{folder} is not what was exported: {'; '.join(faults[:SHOWN])}{more}; export again")
    if not card.comparisons:
        return card
    comparisons = compare(folder, openers[card.family](folder))
    require(comparisons, str(folder))
    return Card(card.family, card.step, card.dtype, card.mapped, card.files, comparisons)
