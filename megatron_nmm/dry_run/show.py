"""A dry run's report as tables for people."""

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from megatron_nmm.dry_run.memory import KINDS
from megatron_nmm.dry_run.report import JobReport, RankReport

GIB = 1 << 30
SMALL = 1 << 20
"""Collectives that move less in a step are left out of tables; JSON has them."""


def headline(job: JobReport) -> str:
    """The job and the stated load, in one or two lines."""
    load = ", ".join(f"{count:,} {what}" for what, count in job.load.items())
    balance = f"\n{job.balance}" if job.balance else ""
    return f"{job.name} on {job.world:,} ranks, each standing for a {job.device}; a microbatch has {load}{balance}"


def place(rank: RankReport) -> str:
    """Which rank, where it stands, and what it holds."""
    places = ", ".join(f"{name} {at}" for name, at in rank.places.items())
    return (
        f"rank {rank.rank}: {places}\n"
        f"holds {', '.join(rank.stage.parts)}: {rank.stage.parameters:,} parameters "
        f"({', '.join(f'{part} {count:,}' for part, count in rank.stage.by_part.items())})\n"
        f"{_microbatches(rank)}; groups in {rank.seconds_for_groups:.1f} s, everything in {rank.seconds:.1f} s"
    )


def groups(rank: RankReport) -> Table:
    """Every group of more than one rank."""
    out = Table("group", "size", "ranks")
    for group in rank.groups:
        out.add_row(group.name, f"{len(group.ranks):,}", ranges(group.ranks))
    return out


def memory(ranks: Sequence[RankReport]) -> Table:
    """Bytes at the peak by kind, one row a rank."""
    out = Table("rank", "like it", "holds", "parameters", *(f"{kind} GiB" for kind in KINDS), "peak GiB")
    for rank in ranks:
        sizes = [f"{rank.memory.at_peak[kind] / GIB:.2f}" for kind in KINDS]
        out.add_row(
            str(rank.rank),
            f"{rank.stands_for:,}",
            ", ".join(rank.stage.parts),
            f"{rank.stage.parameters:,}",
            *sizes,
            f"{rank.memory.peak / GIB:.2f}",
        )
    return out


def collectives(rank: RankReport) -> Table:
    """What a step sends, the most first."""
    out = Table("collective", "group", "calls a step", "GiB a step")
    for call in sorted(rank.collectives, key=lambda call: -call.bytes):
        if call.bytes >= SMALL:
            out.add_row(call.name, call.group, f"{call.calls:,}", f"{call.bytes / GIB:.3f}")
    return out


def waits(rank: RankReport) -> Table:
    """Every line at which the host waits for its device."""
    out = Table("the host", "times a step", "where", "why it may")
    for wait in rank.waits:
        out.add_row(wait.what, f"{wait.times:,}", wait.where, wait.why or "[red]FAULT[/]")
    return out


def ranges(numbers: Iterable[int]) -> str:
    """``512-519``, ``5-773 by 256``: ascending numbers in few words."""
    return ", ".join(_ranges(list(numbers)))


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Runs of equal steps, each as long as it goes."""
    start = 0
    while start < len(numbers):
        end = start + 1
        step = numbers[end] - numbers[start] if end < len(numbers) else 1
        while end < len(numbers) and numbers[end] - numbers[end - 1] == step:
            end += 1
        if end - start > 2 or (step == 1 and end - start == 2):
            yield f"{numbers[start]}-{numbers[end - 1]}" + (f" by {step}" if step > 1 else "")
        else:
            end = start + 1
            yield str(numbers[start])
        start = end


def _microbatches(rank: RankReport) -> str:
    if rank.microbatches == rank.microbatches_run:
        return f"{rank.microbatches} microbatches"
    return f"{rank.microbatches} microbatches, of which {rank.microbatches_run} were run and stand for all"
