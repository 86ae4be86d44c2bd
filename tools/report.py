"""Make the report of a scaling study: one HTML file that needs nothing else, and its pictures as PNG and SVG.

    python tools/report.py runs/scaling
    python tools/report.py runs/scaling --flops 1e20 --output reports/first

FOLDER holds manifest.jsonl (tools/sweep.py) and fit.json (tools/fit.py); without the latter the report shows the runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from megatron_nmm.config.arguments import finite_above_zero
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.files import durable
from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.fit import file as fit_file
from megatron_nmm.scaling.fit.encoder_rule import best_encoders
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.report import page as report
from megatron_nmm.scaling.report.plots.all import PICTURES, draw_all
from megatron_nmm.scaling.report.study import Study


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the study")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the report goes (default FOLDER/report)")
    parser.add_argument("--name", help="of the study, for the title (default the folder's)")
    parser.add_argument(
        "--flops", type=finite_above_zero, metavar="C", help="budget of the next model (default ten times the largest)"
    )
    return parser.parse_args(argv)


def study_of(folder: Path, name: str | None) -> Study:
    """The runs and fits of a folder; DataError where there is no manifest or a file that is none."""
    found = manifest.read(folder)
    fits = fit_file.read(folder) if (folder / fit_file.NAME).exists() else ()
    faults = tuple(str(fault) for fault in found.faults)
    if not found.points:
        raise ConfigError(f"{found.path} has no run that could be used ({len(faults)} faults): {'; '.join(faults[:3])}")
    return Study(name or folder.resolve().name, found.points, fits, faults, encoders_of(found.points))


def encoders_of(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    """(language model, its best encoder) by NaViL's rule where the study has encoders to choose from, else nothing."""
    try:
        return tuple((best.llm, best.encoder) for best in best_encoders(points) if best.settled)
    except ConfigError:
        return ()


def write(study: Study, output: Path, flops: float | None) -> Path:
    """The page and the pictures; ConfigError where the folder cannot be made or written to."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        drawings = draw_all(study, output)
        durable.replace(output / report.NAME, report.page(study, drawings, flops).encode())
    except OSError as error:
        raise ConfigError(f"{output} takes no report ({error}); name another folder with --output") from error
    return output / report.NAME


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, write, say where."""
    options, console = arguments(argv), Console(width=140)
    try:
        study = study_of(options.folder, options.name)
        path = write(study, options.output or options.folder / "report", options.flops)
    except NMMError as error:
        return refuse(error)
    fits = f"{len(study.fits)} fits" if study.fits else "no fit (tools/fit.py makes one)"
    console.print(f"{len(study.points)} runs, {fits}, lines left out: {len(study.faults)}", highlight=False)
    for picture in PICTURES:
        if not (path.parent / f"{picture.name}.png").exists():
            console.print(f"{picture.title}: not drawn, for {picture.lacks}", highlight=False)
    console.print(f"report {path}, {path.stat().st_size / 1e6:.1f} MB", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
