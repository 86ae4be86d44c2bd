"""Samples whose images cannot be decoded: what stands in for them, where they are written down, how many are too many.

What stands in depends on the corpus alone, so every rank that reads the row, and every later reading of it, sees the
same. A run notes each bad sample once, in ``<run>/quarantine.jsonl``.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from megatron_nmm.data.corpus import Corpus, Sample
from megatron_nmm.errors import DataError
from megatron_nmm.files.step_lines import Record

NAME = "quarantine.jsonl"
SEARCH = 64
"""Samples after a bad one that are looked at for something to stand in."""
SHARE_AFTER = 1000
"""Samples read before their bad share says anything."""
SHOWN = 3
"""Bad samples named in a message."""

Key = tuple[str, int]
"""(fingerprint of the corpus, number of the sample in it)."""


@dataclass(frozen=True)
class BadSample:
    """A sample with an image that no attempt could decode."""

    corpus: str
    """Folder."""
    fingerprint: str
    shard: str
    number: int
    """Place of the sample in the corpus."""
    sample: str
    """Its id."""
    image: int
    """Number of the image in the shard's images.bin; -1 when no single image is to blame."""
    reason: str

    @property
    def key(self) -> Key:
        """What makes two of them the same."""
        return self.fingerprint, self.number


def stand_ins[T](corpus: Corpus, number: int, usable: Callable[[int], T | None]) -> list[T]:
    """What takes the place of bad sample ``number``: the next samples of the corpus that fit into its space.

    ``usable`` turns a sample's number into what the row holds, or None when that sample is bad, too. Space that the
    next ``SEARCH`` samples do not fill stays padding.
    """
    bad = corpus.sample(number)
    tokens, patches = len(bad.tokens), patch_count(bad)
    found: list[T] = []
    for ahead in range(1, min(SEARCH, len(corpus) - 1) + 1):
        candidate = (number + ahead) % len(corpus)
        sample = corpus.sample(candidate)
        if len(sample.tokens) > tokens or patch_count(sample) > patches:
            continue
        value = usable(candidate)
        if value is not None:
            found.append(value)
            tokens, patches = tokens - len(sample.tokens), patches - patch_count(sample)
            if tokens == 0:
                break
    return found


def patch_count(sample: Sample) -> int:
    """Vision patches of all images of a sample."""
    return sum(grid.patches for grid in sample.grids)


@dataclass
class Quarantine:
    """The bad samples of a run so far; every rank that is told the same comes to the same."""

    most: int
    """``data.max_bad``: distinct bad samples a run puts up with."""
    share: float
    """``data.max_bad_share``: replaced samples as a share of the samples read."""
    found: dict[Key, BadSample] = field(default_factory=dict)
    read: int = 0
    """Samples planned for the rows read so far, in all epochs."""
    replaced: int = 0
    """Those of them that something else stood in for."""

    def add(self, samples: Iterable[BadSample]) -> list[BadSample]:
        """Note ``samples``; those not known yet."""
        new = []
        for sample in samples:
            if sample.key not in self.found:
                self.found[sample.key] = sample
                new.append(sample)
        return new

    def count(self, read: int, replaced: int) -> None:
        """Add what all ranks together read since the last count."""
        self.read += read
        self.replaced += replaced

    @property
    def excess(self) -> str | None:
        """Fact, samples and remedy when a limit is passed; None while the run may go on."""
        share = self.replaced / max(1, self.read)
        if len(self.found) > self.most:
            limit, setting = f"data.max_bad={self.most}", f"data.max_bad={2 * len(self.found)}"
        elif self.read >= SHARE_AFTER and share > self.share:
            limit, setting = f"data.max_bad_share={self.share:g}", f"data.max_bad_share={min(1.0, 2 * share):.2g}"
        else:
            return None
        shown = [describe(sample) for sample in list(self.found.values())[:SHOWN]]
        more = f"; and {len(self.found) - SHOWN:,} more in {NAME}" if len(self.found) > SHOWN else ""
        return (
            f"{len(self.found):,} samples have images that cannot be decoded and {self.replaced:,} of {self.read:,} "
            f"samples read ({share:.2%}) were replaced, more than {limit} allows: {'; '.join(shown)}{more}. "
            f"Restore the corpus from a copy, tokenise it again (tools/tokenise.py --verify-images decode leaves such "
            f"samples out), or allow more with --set {setting}"
        )

    def require_few(self) -> None:
        """Raise DataError when more samples are bad than the run puts up with."""
        excess = self.excess
        if excess is not None:
            raise DataError(excess)


def describe(sample: BadSample) -> str:
    """One bad sample in a line."""
    image = f", image {sample.image}" if sample.image >= 0 else ""
    return f"sample {sample.sample!r} ({sample.corpus}/{sample.shard}{image}): {sample.reason}"


def to_record(sample: BadSample, step: int) -> Record:
    """The line of quarantine.jsonl for a sample first met in ``step``."""
    return {"step": step, **asdict(sample)}


def from_record(record: Record) -> BadSample:
    """The sample of a line of quarantine.jsonl; raises DataError when the line is not one."""
    try:
        return BadSample(**{name: record[name] for name in BadSample.__dataclass_fields__})
    except KeyError as error:
        raise DataError(f"{NAME} has a line without {error}; restore the file or move it away") from error
