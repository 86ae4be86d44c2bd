"""The benchmarks of both papers as a table: which file each expects, and which score is published."""

from dataclasses import dataclass
from typing import Literal

Runner = Literal["evaluate", "VLMEvalKit"]
"""``tools/evaluate.py``, or the kit through vlmevalkit.py: it has the judges and prompts the figures were made with."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of one paper."""

    name: str
    paper: Literal["P1", "NaViL"]
    split: str
    runner: Runner
    file: str
    """``evaluate``: under the folder of --data; its image paths start there too. ``VLMEvalKit``: under ``$LMUData``; a
    tab-separated table with index, question, answer, image (base64), for choices A to D and what else the kit asks."""
    score: str
    """A row of METRICS, or what the kit calls its figure."""


BENCHMARKS: tuple[Benchmark, ...] = (
    # P1, Table 4: after instruction tuning; AVG accuracy is the mean of the first five.
    Benchmark("VQAv2", "P1", "val", "evaluate", "vqav2/val.jsonl", "vqa_accuracy"),
    Benchmark("TextVQA", "P1", "val", "evaluate", "textvqa/val.jsonl", "vqa_accuracy"),
    Benchmark("OKVQA", "P1", "val", "evaluate", "okvqa/val.jsonl", "vqa_accuracy"),
    Benchmark("GQA", "P1", "testdev balanced", "evaluate", "gqa/testdev_balanced.jsonl", "exact_match"),
    Benchmark("VizWiz", "P1", "val", "evaluate", "vizwiz/val.jsonl", "vqa_accuracy"),
    Benchmark("COCO", "P1", "Karpathy test", "evaluate", "coco/karpathy_test.jsonl", "cider"),
    Benchmark("TextCaps", "P1", "val", "evaluate", "textcaps/val.jsonl", "cider"),
    # NaViL, Tables 1 and 2; of splits it does not state, those whose answers are public.
    Benchmark("MMVet", "NaViL", "test", "VLMEvalKit", "MMVet.tsv", "judged, 0 to 100"),
    Benchmark("MMMU", "NaViL", "val", "VLMEvalKit", "MMMU_DEV_VAL.tsv", "accuracy"),
    Benchmark("MMBench-EN", "NaViL", "dev", "VLMEvalKit", "MMBench_DEV_EN.tsv", "circular accuracy"),
    Benchmark("MME", "NaViL", "test", "VLMEvalKit", "MME.tsv", "sum, 0 to 2,800"),
    Benchmark("MathVista", "NaViL", "testmini", "VLMEvalKit", "MathVista_MINI.tsv", "judged accuracy"),
    Benchmark("OCRBench", "NaViL", "test", "VLMEvalKit", "OCRBench.tsv", "right of 1,000"),
    Benchmark("CCBench", "NaViL", "dev", "VLMEvalKit", "CCBench.tsv", "circular accuracy"),
    Benchmark("TextVQA", "NaViL", "val", "VLMEvalKit", "TextVQA_VAL.tsv", "vqa_accuracy"),
    Benchmark("ScienceQA-IMG", "NaViL", "test", "VLMEvalKit", "ScienceQA_TEST.tsv", "accuracy"),
    Benchmark("GQA", "NaViL", "testdev balanced", "VLMEvalKit", "GQA_TestDev_Balanced.tsv", "exact_match"),
    Benchmark("DocVQA", "NaViL", "val", "VLMEvalKit", "DocVQA_VAL.tsv", "anls"),
    Benchmark("AI2D", "NaViL", "test", "VLMEvalKit", "AI2D_TEST.tsv", "accuracy"),
    Benchmark("ChartQA", "NaViL", "test", "VLMEvalKit", "ChartQA_TEST.tsv", "relaxed_accuracy"),
    Benchmark("InfoVQA", "NaViL", "val", "VLMEvalKit", "InfoVQA_VAL.tsv", "anls"),
)

RUN_HERE: dict[str, Benchmark] = {row.name: row for row in BENCHMARKS if row.runner == "evaluate"}
"""What ``tools/evaluate.py --benchmark`` takes."""
