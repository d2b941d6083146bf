"""What the curriculum and the loss mask are worth: held-out scores at the same compute.

    make bench-curriculum            (or: python benchmarks/curriculum.py --seeds 1 2 3)

Three ways to fine-tune the embedded model on `configs/tiny.yaml`, with the same seeds:

- `curriculum`: as the file says, in fewer steps: small and easy first, loss on the answer alone;
- `flat`: all samples at full size from the first step, as many steps as take the same number of
  tokens;
- `unmasked`: the curriculum, with loss on every token of text: prompt, request and answer.

A seed draws the data, the split and the order. Each pair of ways meets the same data under the same
seed, so differences are taken seed by seed; intervals are Student's 95 % over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/curriculum.json"
CONFIG = "configs/tiny.yaml"
STEPS = 400
"""Half of what the file says: before the scores come so near to 1 that nothing tells them apart."""

METRICS = ("heldout/teds/tuned", "heldout/cell_accuracy/tuned")
STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
"""Quantiles of Student's distribution by degrees of freedom."""


@dataclass(frozen=True)
class Trained:
    """One run: its scores, and what it took."""

    scores: dict[str, float]
    tokens: float
    steps: float
    tokens_per_full_step: float
    """Of the last phase, which has every sample at full size."""


def run(name: str, seed: int, folder: Path, *settings: str) -> Trained:
    """Train and validate; reuses what an earlier call published."""
    command = [
        sys.executable, "-m", "vlmpipe", "run-all", "--to", "validate", "--json", "-c", CONFIG,
        f"run.name={name}-{seed}", f"run.seed={seed}", f"run.outputs_dir={folder}",
        "validate.gate=report", f"train.max_steps={STEPS}", *settings,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    metrics = {
        **_manifest_metrics(folder / f"{name}-{seed}/2_train"),
        **_manifest_metrics(folder / f"{name}-{seed}/3_validate"),
    }
    rows = _training_rows(folder / f"{name}-{seed}")
    last = [row["tokens"] for row in rows if "tokens" in row and row["phase"] == rows[-1]["phase"]]
    return Trained(
        scores={metric: metrics[metric] for metric in METRICS},
        tokens=metrics["train/tokens"],
        steps=metrics["train/steps"],
        tokens_per_full_step=statistics.mean(last),
    )


def _manifest_metrics(stage_folder: Path) -> dict[str, float]:
    manifest = json.loads((stage_folder / "latest/manifest.json").read_text(encoding="utf-8"))
    metrics: dict[str, float] = manifest["metrics"]
    return metrics


def _training_rows(run_folder: Path) -> list[dict[str, Any]]:
    """What training wrote at each step."""
    path = run_folder / "2_train/latest/metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def interval(values: list[float]) -> dict[str, float]:
    """Mean and half the width of its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": mean, "half_width": math.inf}
    error = statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "half_width": STUDENT_95[len(values) - 1] * error}


def measure(seeds: list[int], folder: Path, settings: list[str]) -> dict[str, list[Trained]]:
    """Every way under every seed."""
    ways: dict[str, list[Trained]] = {"curriculum": [], "flat": [], "unmasked": []}
    for seed in seeds:
        ours = run("curriculum", seed, folder, *settings)
        steps = round(ours.tokens / ours.tokens_per_full_step)
        # No phase: every sample at the size of the last one, which is the largest.
        flat = ("train.curriculum=[]", f"train.max_steps={steps}", "train.checkpoint_steps=[]")
        ways["curriculum"].append(ours)
        ways["flat"].append(run("flat", seed, folder, *settings, *flat))
        scope = "train.loss.scope=all_text"
        ways["unmasked"].append(run("unmasked", seed, folder, *settings, scope))
        print(f"seed {seed}: " + ", ".join(f"{w} {t[-1].scores}" for w, t in ways.items()))
    return ways


def report(ways: dict[str, list[Trained]], seeds: list[int]) -> dict[str, Any]:
    """Scores of each way, and what the two parts are worth, with intervals."""
    scores = {
        way: {
            **{m: interval([each.scores[m] for each in runs]) for m in METRICS},
            "steps": [each.steps for each in runs],
            "tokens": [each.tokens for each in runs],
            "by_seed": [each.scores for each in runs],
        }
        for way, runs in ways.items()
    }
    worth = {
        f"curriculum over {other}": {
            m: interval(
                [
                    ours.scores[m] - theirs.scores[m]
                    for ours, theirs in zip(ways["curriculum"], ways[other], strict=True)
                ]
            )
            for m in METRICS
        }
        for other in ("flat", "unmasked")
    }
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "python": platform.python_version(),
        },
        "seeds": seeds,
        "scores": scores,
        "worth": worth,
    }


def main() -> None:
    """Run, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs/bench-curriculum")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, as vlmpipe takes them")
    arguments = parser.parse_args()
    ways = measure(arguments.seeds, arguments.outputs.resolve(), arguments.settings)
    results = report(ways, arguments.seeds)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for name, figures in results["worth"].items():
        for metric, each in figures.items():
            print(f"{name}, {metric}: {each['mean']:+.3f} ± {each['half_width']:.3f}")


if __name__ == "__main__":
    main()
