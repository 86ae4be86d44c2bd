"""P1's coefficients found again: runs made from a printed law on P1's grid, fitted as any other study."""

from collections.abc import Iterator

import numpy as np

from megatron_nmm.scaling.fit.one import Report, fit
from megatron_nmm.scaling.fit.sparsity import NAMES, SparseLaw, fit_sparse
from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers.row import Row, Section
from megatron_nmm.scaling.papers.tables import of
from megatron_nmm.scaling.point import Family, Point, study_flops

LENGTHS = 13
"""Token counts of each size: 6 x 13 = 78 runs, P1 has 76."""
MAE_TO_DEVIATION = float(np.sqrt(np.pi / 2))
TOP_K = (1, 2, 4, 8)
"""Of 8 experts, in the runs that tell the sparsity-aware law."""


def runs(
    law: Law, family: Family, noise: float = 0.0, seed: int = 0, lowest: float = published.TOKEN_RANGE[0]
) -> list[Point]:
    """P1's sizes at ``LENGTHS`` token counts, with losses of ``law``; log L has normal noise of deviation ``noise``."""
    random = np.random.default_rng(seed)
    out = []
    for n in published.DEPTH_24:
        for d in np.geomspace(lowest, published.TOKEN_RANGE[1], LENGTHS):
            loss = float(law.loss(n, d) * np.exp(noise * random.standard_normal()))
            out.append(made(f"{n:.4g}-{d:.4g}", family, n, float(d), loss))
    return out


def made(run: str, family: Family, n: float, d: float, loss: float, experts: int = 1, top_k: int = 1) -> Point:
    """A run that never was."""
    flops = study_flops(n, 0.0, d, 0.0)
    return Point(
        run,
        "paper",
        family,
        f"{n / 1e9:.3f}b",
        "45-45-10",
        0,
        n,
        n,
        0.0,
        d,
        0.0,
        flops,
        0.0,
        {"avg of kinds": loss},
        experts,
        top_k,
    )


def sections() -> Iterator[Section]:
    """Everything that fits synthetic runs."""
    sparse = fit(runs(published.MOE, "sparse"), resamples=2, above=published.HULL_ABOVE)
    yield _table_12(sparse)
    yield _sparsity()
    yield _table_11()
    yield _hulls(sparse)


def _table_12(report: Report) -> Section:
    law = report.fitted.law
    rows = [
        Row(name, getattr(published.MOE, name), getattr(law, name), "P1 Table 12")
        for name in ("E", "A", "B", "alpha", "beta")
    ]
    printed = next(row for row in published.TABLE_2 if row.name == "sparse")
    swept = report.swept
    assert swept is not None, "Table 12's law has optima at P1's budgets"
    rows += [
        Row("a by regression", printed.a, swept.a, "P1 Table 2"),
        Row("b by regression", printed.b, swept.b, "P1 Table 2"),
        Row("d by regression", float(printed.d or 0), swept.d, "P1 Table 2"),
    ]
    how = f"fit of {len(report.fitted.runs)} runs made from Table 12's law on P1's sizes and token counts"
    return Section("Table 12: the sparse law found again", how, rows)


def _sparsity() -> Section:
    law = SparseLaw(**published.SPARSITY)
    points = []
    for k in TOP_K:
        for n in published.DEPTH_24[:4]:
            for d in np.geomspace(*published.TOKEN_RANGE, 4):
                loss = float(law.loss(n, d, k / 8))
                points.append(made(f"{k}-{n:.4g}-{d:.4g}", "sparse", n, float(d), loss, 8, k))
    found = fit_sparse(points)
    names = {"lam": "lambda"}
    rows = [Row(names.get(k, k), published.SPARSITY[k], getattr(found, k), "P1 Table 12") for k in NAMES]
    n = published.DEPTH_24[2]
    both = [values["E"] + values["A"] * n ** -values["alpha"] for values in (published.SPARSITY, vars(found))]
    rows.append(Row("E + A / N^alpha at 0.93B", both[0], both[1], "P1 Table 12"))
    for flops in published.BUDGETS:
        n, d = published.MOE.optimum(flops)
        plain = float(published.MOE.loss(n, d))
        rows.append(Row(f"loss at {flops:.0e}, S = 0 against plain", plain, float(law.loss(n, d, 1.0)), "Table 12"))
        rows.append(Row(f"loss at {flops:.0e}, S = 7/8 against plain", plain, float(law.loss(n, d, 0.125)), "Table 12"))
    how = (
        f"fit of {len(points)} runs made from the printed form with top-{', '.join(map(str, TOP_K))} of 8 experts. "
        "Its last term is printed with N^gamma and must be 1 / N^gamma to fall. A = 1 is so small that a fit may count "
        "any of it to E. With S = 0 the form is the plain law of the same table, with P1's own S = 7/8 it is not: P1 "
        "trained at one S, which cannot tell lambda and delta"
    )
    return Section("Table 12: the sparsity-aware law found again", how, rows)


def _table_11() -> Section:
    """P1's bootstrap on runs as noisy as P1's."""
    noise = published.TABLE_10["held in"][2] / 100.0 * MAE_TO_DEVIATION
    fitted = fit(runs(published.DENSE, "early", noise), keep_back=0).fitted
    found = {**vars(fitted.law), **fitted.exponents["closed form"]}
    rows = []
    for name, (mean, deviation) in published.TABLE_11.items():
        rows.append(Row(f"{name}, value", mean, found[name], "P1 Table 11"))
        rows.append(Row(f"{name}, deviation", deviation, fitted.intervals[name].deviation, "P1 Table 11"))
    how = (
        f"100 resamples of 78 runs of the dense law (assumed A and B) with {noise:.2%} of noise, which gives Table "
        "10's mean error. One draw of noise: as in the paper, alpha's deviation is several times beta's. In "
        "closed form a + b = 1, so both deviate equally; P1's a and b are regressions"
    )
    return Section("Table 11: bootstrap, early fusion", how, rows)


def _hulls(sparse: Report) -> Section:
    rows = []
    dense = fit(runs(published.DENSE, "early"), resamples=2, above=published.HULL_ABOVE)
    for family, report in (("sparse", sparse), ("early", dense)):
        hull, printed = report.frontier, of(family)
        assert hull is not None, "P1's grid has runs above 3e19 FLOPs"
        rows.append(Row(f"{family}, c", printed.slope, hull.slope, printed.source))
        for flops in published.BUDGETS:
            rows.append(Row(f"{family}, loss at {flops:.0e}", printed.loss(flops), hull.loss(flops), printed.source))
    far = max(abs(row.relative) for row in rows if "loss" in row.what)
    how = (
        "lower hull of runs made from Table 12's law and the dense law above 3e19 FLOPs. A law with a floor E bends up "
        f"at large C, so its frontier is flatter than the printed power law; its losses are at most {far:.1%} off"
    )
    return Section("Frontiers from the hull of synthetic runs", how, rows)
