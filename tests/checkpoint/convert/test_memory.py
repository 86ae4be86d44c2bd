"""Memory of a conversion grows with the largest tensor, never with the checkpoint."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import ModelConfig, RunConfig
from tests.checkpoint.convert import synthetic

LARGEST = 32_768 * 512 * 4
"""Bytes of each of the four largest tensors."""
SLACK = 48 << 20
"""Bytes for what is there once: blocks, lists of names, what libraries load when they are first used."""
WATCHED = """
import sys
from pathlib import Path
from megatron_nmm.checkpoint.convert.from_hf import from_hf
from megatron_nmm.checkpoint.convert.to_hf import to_hf
from tests.checkpoint.convert.synthetic import checkpoint_of

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def grown(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    work()
    return peak() - before

root = Path(sys.argv[1])
print(grown(lambda: to_hf(root / "run", root / "hf", "native_multimodal", sys.argv[2], None, print, largest=10**8)))
print(grown(lambda: from_hf(root / "hf", root / "back", "stored", print)))
"""


@pytest.mark.parametrize("dtype", ["stored", "bf16"])
def test_peak_is_under_one_and_a_half_of_the_largest_tensor(dtype: str, tmp_path: Path) -> None:
    """330 MB of weights; the process with its libraries is measured before, the promise allows it 1 GB."""
    model = ModelConfig(layers=2, width=512, heads=8, ffn=16_384, vocabulary=32_768)
    run = replace(RunConfig(), model=model)
    checkpoint = synthetic.checkpoint_of(run, tmp_path / "run")
    assert sum(file.stat().st_size for file in checkpoint.iterdir()) > 4.5 * LARGEST
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path), dtype], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    grown = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert len(grown) == 2 and max(grown) < 1.5 * LARGEST + SLACK, [f"{each / LARGEST:.2f}" for each in grown]
