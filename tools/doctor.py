"""What is installed, what is missing, why it matters and the command that gets it; whether the parts fit together.

    python tools/doctor.py                                        a table
    python tools/doctor.py --json                                 the same for programs
    python tools/doctor.py --selftest --processes 4               collectives: right? how fast?
    torchrun --nnodes 2 ... tools/doctor.py --selftest            the same across nodes

Exits 1 when something that the core needs is missing or wrong, or a collective computes wrong numbers.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# It has to answer where nothing is installed, not even this package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_nmm.config.arguments import positive
from megatron_nmm.device.health import selftest
from megatron_nmm.device.health.facts import Facts, gather
from megatron_nmm.device.health.judge import Finding, judge
from megatron_nmm.device.health.selftest import Measured

MARKS = {
    "ok": ("ok", "green"),
    "absent": ("not there", "dim"),
    "hint": ("could be better", "yellow"),
    "fault": ("WRONG", "red"),
}
"""Level of a finding -> its word in the table, and the colour."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print findings and facts as JSON")
    parser.add_argument("--selftest", action="store_true", help="run the collectives and measure them")
    parser.add_argument(
        "--processes", type=positive, metavar="N", help="of the self-test (default: one a GPU, without GPUs 2)"
    )
    return parser.parse_args()


def measure(facts: Facts, processes: int | None) -> tuple[list[Measured], str]:
    """The self-test's results, or why there are none."""
    try:
        if selftest.by_torchrun():
            return selftest.in_this_job(), ""
        return selftest.on_this_machine(processes or len(facts.gpus) or 2), ""
    except RuntimeError as error:
        return [], str(error).partition("\n")[0]


def in_colour(findings: Sequence[Finding], measured: Sequence[Measured]) -> None:
    """Print tables with rich."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(width=180)
    table = Table()
    for heading in ("area", "what", "", "found", "why it matters", "command"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        word, colour = MARKS[finding.level]
        cells = (finding.area, finding.subject, word, finding.found, finding.why, finding.command)
        table.add_row(*(Text(cell, colour if number == 2 else "") for number, cell in enumerate(cells)))
    console.print(table)
    if measured:
        speeds = Table("collective", "ranks", "MiB a rank", "ms", "GB/s a rank", "values")
        for row in measured:
            speeds.add_row(*_speed(row))
        console.print(speeds)


def plainly(findings: Sequence[Finding], measured: Sequence[Measured]) -> None:
    """Print the same where rich is what is missing."""
    for finding in findings:
        parts = (finding.area, finding.subject, MARKS[finding.level][0], finding.found, finding.why, finding.command)
        print(" | ".join(filter(None, parts)))
    for row in measured:
        print(" | ".join(_speed(row)))


def _speed(row: Measured) -> tuple[str, ...]:
    figures = (f"{row.bytes / 2**20:g}", f"{row.seconds * 1e3:.2f}", f"{row.gb_per_second:.2f}")
    return (row.operation, str(row.ranks), *figures, "right" if row.right else "WRONG")


def verdict(findings: Sequence[Finding], measured: Sequence[Measured], failure: str) -> tuple[bool, str]:
    """Whether all is well, and one sentence."""
    remedies: dict[str, list[str]] = {}
    for finding in findings:
        if finding.level == "fault":
            remedies.setdefault(finding.command or finding.why, []).append(finding.subject)
    faults = [f"{command} ({', '.join(subjects)})" for command, subjects in remedies.items()]
    faults += [f"{row.operation} of {row.bytes:,} bytes computes wrong values" for row in measured if not row.right]
    if failure:
        faults.append(f"the self-test failed: {failure}")
    if faults:
        return False, "\n".join(("to mend:", *(f"  {fault}" for fault in faults)))
    hints = sum(finding.level == "hint" for finding in findings)
    return True, "the core is complete" + (f"; {hints} could be better (see above)" if hints else "")


def main() -> int:
    """Look, judge, print."""
    options = arguments()
    facts = gather()
    findings = judge(facts)
    measured, failure = measure(facts, options.processes) if options.selftest else ([], "")
    fine, sentence = verdict(findings, measured, failure)
    if os.environ.get("RANK", "0") == "0":
        if options.json:
            print(json.dumps(_tree(facts, findings, measured, fine, sentence), indent=1))
        else:
            (in_colour if "rich" in facts.packages else plainly)(findings, measured)
            print(sentence)
    return 0 if fine else 1


def _tree(
    facts: Facts, findings: Sequence[Finding], measured: Sequence[Measured], fine: bool, sentence: str
) -> dict[str, Any]:
    described = {**asdict(facts), "cpu_flags": sorted(facts.cpu_flags)}
    return {
        "ok": fine,
        "verdict": sentence,
        "findings": [asdict(finding) for finding in findings],
        "selftest": [{**asdict(row), "gb_per_second": row.gb_per_second} for row in measured],
        "facts": described,
    }


if __name__ == "__main__":
    sys.exit(main())
