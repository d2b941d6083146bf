"""vlmpipe against plain TRL: samples a second, memory, the same losses, and what each part gives.

    make bench-train                       (or: python benchmarks/train.py --quick)

One model (`train_model.py`), the same pages (`train_data.py`), the same recipe (`train_process.py`)
on both sides, each training in a process of its own. First both sides are held against each other,
sample by sample (`train_equal.py`); then TRL trains one epoch at every batch size at the same
samples a step, and the fastest is what the ratios are against; then TRL and vlmpipe take turns;
then each part of vlmpipe alone.

- samples/s: samples of all epochs over the seconds of TRL's `trainer.train()`, against those of
  ours and of filling the vision cache, which is empty at first. `with proofs` adds everything that
  vlmpipe does from the model in memory to the end: audits, proofs, dry run, the adapter written.
- memory: highest RssAnon in /proc/PID/status while training, sampled every 10 ms: what it rises
  over what the process held with the model just loaded, and all of it, libraries included.
- MFU: the FLOPs that LoRA needs (4N a token, causal attention, the head for supervised tokens;
  neither tower nor recomputation) over seconds and over a matrix product's FLOP/s here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import train_model
from train_figures import batch_row, figures_of, parts_table, table
from train_process import Recipe
from train_runs import Run, fastest, our_batches, run_ours, run_trl, trl_by_batch
from train_setting import circumstances, prepare

HERE = Path(__file__).parent
RESULTS = HERE / "results/train.json"
ALONE = ("none", "cache", "head", "batches", "packing")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, from writing the model to the last part."""
    recipe = Recipe(epochs=options.epochs)
    torch.set_num_threads(recipe.threads or 1)
    workload = "tiny" if options.shape == "tiny" else "mixed"
    setting = prepare(folder, recipe, options.samples, options.shape, workload)
    equal = compare(folder)
    search = trl_by_batch(folder, recipe)
    batch = fastest(search)
    mean_tokens = setting.tokens / options.samples
    batches = our_batches(recipe, batch, options.batch_tokens, mean_tokens)

    def ours(part: str) -> Run:
        return run_ours(folder, recipe, part, batches)

    pairs = [(run_trl(folder, recipe, batch), ours("all")) for _ in range(options.rounds)]
    parts = {part: ours(part) for part in ALONE} if options.parts else {}
    runs = [*search, *(each for pair in pairs for each in pair), *parts.values()]
    return {
        **circumstances("train.py"),
        "rounds": options.rounds,
        "recipe": {**asdict(recipe), "ours": asdict(batches)},
        "workload": setting.workload,
        "shares": train_model.comparison(options.shape, tokens=round(mean_tokens)),
        "figures": figures_of(pairs, equal["losses"], setting.needed_s),
        "parts": parts_table(parts, pairs) if parts else [],
        "trl": [batch_row(each) for each in search],
        "losses": equal["losses"],
        "runs": [asdict(each) for each in runs],
    }


def compare(folder: Path) -> dict[str, Any]:
    """Both sides sample by sample; ends the benchmark where they do not train on the same."""
    command = [sys.executable, str(HERE / "train_equal.py"), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"train_equal.py failed:\n{done.stderr[-3000:]}")
    equal: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if equal["unequal"]:
        sys.exit(f"the sides do not train on the same tokens: {equal['unequal']}")
    return equal


def main() -> None:
    """Run, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=1280, help="our token budget")
    parser.add_argument(
        "--no-parts", dest="parts", action="store_false", help="leave the table of parts out"
    )
    parser.add_argument("--quick", action="store_true", help="one round, 16 samples, two epochs")
    parser.add_argument("--shape", choices=("small", "tiny"), default="small",
                        help="tiny: only to see all of it run; writes no results")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--results", type=Path, help="default: those of this repository")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.samples, arguments.epochs = 1, 16, 2
    with tempfile.TemporaryDirectory(prefix="bench-train-", dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments)
    target = arguments.results or (RESULTS if arguments.shape == "small" else None)
    if target:
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        target.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
