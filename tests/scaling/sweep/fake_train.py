"""Stands in for tools/train.py: leaves what runs leave, at once; those named in $FAIL or $DIVERGE end badly."""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    for file in sys.argv[1:]:
        run = json.loads(Path(file).read_text())["run"]
        folder = Path(run["folder"])
        start = run["init"]["continue_from"]
        assert not start or Path(start).is_dir(), f"{start} is missing"
        for step in (*run["save"]["at"], run["steps"]):
            if run["name"] in os.environ.get("FAIL", "").split() and step == run["steps"]:
                print(f"noise\nerror: {run['name']} is out of luck\nmore noise")
                raise SystemExit(2)
            checkpoint = folder / "checkpoints" / f"step-{step:08d}"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "manifest.json").write_text("{}")
        counts = {
            "read_tokens": 900 * run["steps"],
            "read_image_tokens": 500 * run["steps"],
            "flops": 7,
            "seconds": 1.0,
        }
        loss = None if run["name"] in os.environ.get("DIVERGE", "").split() else 2.5
        lines = [{"event": "step", "step": run["steps"], **counts}]
        if start:
            kinds = {"caption": {"loss": loss, "tokens": 5}}
            lines.append({"event": "validation", "step": run["steps"], "kinds": kinds})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


main()
