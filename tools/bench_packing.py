"""How close packing comes to the fewest packs possible, and what it costs, over mixtures of a million samples.

    python tools/bench_packing.py                   # 1,000,000 samples each
    python tools/bench_packing.py --samples 100000

Text lengths are log-normal, captions are 256 image tokens and 5 to 80 of text, interleaved documents have 1 to 4 images
and log-normal text; shares and medians stand in MIXTURES, the seed is SEED. Samples that no pack of that size holds are
left out. Each row runs in a process of its own on one core: seconds are those of pack(), peak memory is the process's.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.data.packing import Limits, Sizes, lower_bound, pack, proved_bound

SEED = 0
IMAGE = 256
"""Tokens, and encoder patches, of an image of a fixed size."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of samples, and the median length of a text."""

    text: float
    captions: float
    interleaved: float
    median: int = 250
    native: bool = False
    """Images of 64 to 1,024 patches in steps of 4, log-uniform, instead of 256 each."""


MIXTURES = {
    "mixed": Mixture(0.5, 0.4, 0.1),
    "mixed, long texts": Mixture(0.5, 0.4, 0.1, median=900),
    "text only": Mixture(1.0, 0.0, 0.0),
    "captions only": Mixture(0.0, 1.0, 0.0),
    "interleaved only": Mixture(0.0, 0.0, 1.0),
    "mixed, native resolution": Mixture(0.5, 0.4, 0.1, native=True),
}
CASES = (
    *(("mixed", length, None) for length in (1024, 2048, 4096, 8192)),
    *(("mixed", 1024, patches) for patches in (256, 512, 768)),
    *(("mixed", 2048, patches) for patches in (768, 1024)),
    *(("mixed", 4096, patches) for patches in (1536, 2048)),
    *(("mixed", 8192, patches) for patches in (2048, 3328, 4096)),
    ("mixed, long texts", 2048, 1024),
    ("mixed, long texts", 4096, 1024),
    ("text only", 1024, None),
    ("text only", 8192, None),
    *(("captions only", length, None) for length in (1024, 2048, 4096, 8192)),
    ("captions only", 1024, 768),
    ("interleaved only", 2048, 1536),
    ("interleaved only", 8192, 4096),
    ("mixed, native resolution", 2048, 1024),
    ("mixed, native resolution", 8192, 4096),
    ("mixed, native resolution", 8192, 2048),
)
"""(mixture, tokens of a pack, patches of a pack): bound by tokens, by patches, and by both at once."""


@dataclass(frozen=True)
class Result:
    """One packing, measured."""

    samples: int
    packs: int
    bound: int
    proved: int
    samples_p99: int
    seconds: float
    peak_mib: int


def sizes(mixture: Mixture, count: int, length: int) -> tuple[Sizes, Sizes]:
    """([samples] tokens, [samples] patches) of ``count`` samples in random order; no text is longer than ``length``."""
    random = np.random.RandomState(SEED)
    captions, interleaved = int(count * mixture.captions), int(count * mixture.interleaved)
    texts = count - captions - interleaved
    images = np.concatenate([np.zeros(texts), np.ones(captions), random.randint(1, 5, interleaved)]).astype(np.int64)
    text = np.concatenate(
        [
            np.clip(random.lognormal(np.log(mixture.median), 1.0, texts), 4, length),
            random.randint(5, 81, captions),
            np.clip(random.lognormal(np.log(120), 0.8, interleaved), 8, length),
        ]
    ).astype(np.int64)
    patches = images * IMAGE
    if mixture.native:
        each = 4 * np.exp(random.uniform(np.log(16), np.log(256), (4, count))).astype(np.int64)
        patches = (each * (np.arange(4)[:, None] < images)).sum(axis=0)
    order = random.permutation(count)
    return (text + patches)[order], patches[order]


def measure(name: str, length: int, most_patches: int | None, count: int) -> Result:
    """Pack one mixture and check that every sample is there once and no limit is broken."""
    tokens, patches = sizes(MIXTURES[name], count, length)
    fits = (tokens <= length) & (patches <= (most_patches if most_patches is not None else patches.max()))
    tokens, patches, limits = tokens[fits], patches[fits], Limits(length, most_patches)
    start = time.perf_counter()
    bins = pack(tokens, patches, limits)
    seconds = time.perf_counter() - start
    assert (np.bincount(bins.samples, minlength=len(tokens)) == 1).all() and len(bins.samples) == len(tokens)
    assert bins.totals(tokens).max() <= length
    assert most_patches is None or bins.totals(patches).max() <= most_patches
    return Result(
        samples=len(tokens),
        packs=len(bins),
        bound=lower_bound(tokens, patches, limits),
        proved=proved_bound(tokens, patches, limits),
        samples_p99=int(np.percentile(np.diff(bins.starts), 99)),
        seconds=seconds,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def bench_packing(count: int, console: Console) -> None:
    """Measure all cases and print them as a table."""
    table = Table(title=f"{count:,} samples, seed {SEED}, one process")
    table.add_column("mixture", no_wrap=True)
    for heading in ("tokens", "patches", "packed", "packs", "bound", "above", "proved", "above", "p99", "s", "MiB"):
        table.add_column(heading, justify="right")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for name, length, patches in track(CASES, "packing", console=console):
            found = processes.apply(measure, (name, length, patches, count))
            table.add_row(
                name,
                f"{length:,}",
                f"{patches:,}" if patches else "-",
                f"{found.samples:,}",
                f"{found.packs:,}",
                f"{found.bound:,}",
                f"{found.packs / found.bound - 1:.3%}",
                f"{found.proved:,}",
                f"{found.packs / found.proved - 1:.3%}",
                f"{found.samples_p99:,}",
                f"{found.seconds:.1f}",
                f"{found.peak_mib:,}",
            )
    console.print(table)
    console.print(
        "bound: the larger of ceil(tokens / limit) and ceil(patches / limit); proved: what no packing can be below; "
        "p99: samples in a pack; MiB: peak memory"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=positive, default=1_000_000, metavar="NUMBER", help="of each mixture (default 1,000,000)"
    )
    bench_packing(parser.parse_args(argv).samples, Console(width=None if sys.stdout.isatty() else 140))
    return 0


if __name__ == "__main__":
    sys.exit(main())
