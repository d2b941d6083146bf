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
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import train_data
import train_model
from train_figures import batch_row, figures_of, parts_table, table
from train_process import Recipe
from train_runs import run_ours, run_trl

from vlmpipe.models.loading import load_tokenizer

HERE = Path(__file__).parent
RESULTS = HERE / "results/train.json"
LIBRARIES = ("vlmpipe", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
TRL_BATCHES = (1, 2, 4, 8)
PARTS = ("none", "cache", "head", "batches", "packing", "all")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, from writing the model to the last part."""
    workload = prepare(folder, options.samples)
    equal = compare(folder)
    search = [run_trl(folder, batch, 1) for batch in TRL_BATCHES]
    batch = max(search, key=lambda each: each.samples_per_s).settings["batch"]
    tokens = options.batch_tokens
    pairs = []
    for _ in range(options.rounds):
        theirs = run_trl(folder, batch, options.epochs)
        pairs.append((theirs, run_ours(folder, "all", batch, options.epochs, tokens)))
    parts = {
        part: run_ours(folder, part, batch, options.epochs, tokens)
        for part in PARTS
        if part != "all" and not options.no_parts
    }
    runs = [*search, *(each for pair in pairs for each in pair), *parts.values()]
    return {
        **circumstances(),
        "rounds": options.rounds,
        "recipe": {**asdict(Recipe()), "epochs": options.epochs, "batch_tokens": tokens},
        "workload": workload,
        "shares": train_model.comparison(tokens=round(equal["tokens"] / equal["samples"])),
        "compared": {key: equal[key] for key in ("samples", "tokens", "supervised", "unequal")},
        "figures": figures_of(pairs, equal),
        "parts": parts_table(parts, pairs),
        "trl": [batch_row(each) for each in search],
        "losses": equal["losses"],
        "runs": [asdict(each) for each in runs],
    }


def prepare(folder: Path, samples: int) -> dict[str, Any]:
    """Write model and samples; what the samples are."""
    train_model.write_model(train_model.SHAPES["small"], folder / "model")
    tokenizer = load_tokenizer(folder / "model")
    pages = train_data.draw_pages(samples, tokenizer)
    train_data.write_samples(pages, folder / "data")
    return train_data.workload(pages, tokenizer)


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


def circumstances() -> dict[str, Any]:
    """What was run, when and where."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return {
        "command": " ".join(["python", "benchmarks/train.py", *map(_shown, sys.argv[1:])]),
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "kernel": platform.release().split("-")[0],
            "python": platform.python_version(),
            "load_average": [round(value, 1) for value in os.getloadavg()],
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _shown(word: str) -> str:
    """A word of the command; of an absolute path its last part: others have other machines."""
    return Path(word).name if Path(word).is_absolute() else word


def main() -> None:
    """Run, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=1280, help="our token budget")
    parser.add_argument("--no-parts", action="store_true", help="leave the table of parts out")
    parser.add_argument("--quick", action="store_true", help="one round, 16 samples, two epochs")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.samples, arguments.epochs = 1, 16, 2
    with tempfile.TemporaryDirectory(prefix="bench-train-", dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments)
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    arguments.results.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
