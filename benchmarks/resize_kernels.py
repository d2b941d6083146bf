"""What a foreign resize costs, and what training with several resize kernels is worth against it.

    make bench-resize            (or: python benchmarks/resize_kernels.py --steps 300 --seeds 0 1 2)

The embedded model is fine-tuned twice a seed on `configs/tiny.yaml`, on the same data, in the same
order, for as many steps: with PIL bicubic alone, and with each image resized by a kernel drawn from
bicubic, llama.cpp's and bilinear (`train.augment.resize_kernels`). Both are merged and converted,
and their f16 GGUF files answer the same held-out samples in llama.cpp, in this process, in three
ways:

- `contract`: images prepared on their grid by PIL bicubic, as every engine of vlmpipe does;
- `runtime`: images handed over as they are, so that llama.cpp's own code resizes them;
- `bilinear`: images resized to the same grid bilinearly, as older runtimes do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vlmpipe.config import Config, load_config
from vlmpipe.data.store import load_split
from vlmpipe.encoding.contract import read_contract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.export.gguf.files import FOLDER
from vlmpipe.pipeline.store import RunStore
from vlmpipe.stages import STAGES
from vlmpipe.tasks import task_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/resize_kernels.json"
CONFIG = "configs/tiny.yaml"
TRAININGS = {
    "bicubic alone": '["bicubic"]',
    "all kernels": '["bicubic","llama_cpp","bilinear"]',
}
RESIZES: tuple[Literal["contract", "runtime", "bilinear"], ...] = (
    "contract",
    "runtime",
    "bilinear",
)
QUICK = (
    "validate.gate=off",
    "validate.train_probes=1",
    "validate.heldout_samples=1",
    "convert.gate=off",
    'convert.quants=["q8_0"]',
    "parity.probes=2",
    "train.checkpoint_steps=[]",
)
"""What is not measured here is kept short."""


def train(name: str, kernels: str, steps: int, seed: int, folder: Path) -> Config:
    """One run to its GGUF files; reuses what an earlier call published."""
    settings = [
        f"run.name={name.replace(' ', '-')}-{seed}",
        f"run.seed={seed}",
        f"run.outputs_dir={folder}",
        f"train.max_steps={steps}",
        f"train.augment.resize_kernels={kernels}",
        *QUICK,
    ]
    command = [sys.executable, "-m", "vlmpipe", "run-all", "--to", "convert", "-c", CONFIG]
    command += ["--allow-failed-gate", *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return load_config([ROOT / CONFIG], settings)


def latest(config: Config, name: str) -> Path:
    """The newest published folder of a stage."""
    stage = next(each for each in STAGES if each.name == name)
    version = RunStore(config.run.outputs_dir, config.run.name).latest(stage)
    if version is None:
        sys.exit(f"run {config.run.name} has no {name}")
    return version.folder


def ask(config: Config, resize: str, samples: Sequence[Sample], limit: int) -> dict[str, float]:
    """Mean primary metric of the f16 file's greedy answers, and its loss on the right ones."""
    folder = latest(config, "convert")
    files = {"mmproj" in path.name: path for path in (folder / FOLDER).glob("*f16.gguf")}
    task, contract = task_of(config.data.task), read_contract(folder)
    handing: Literal["contract", "runtime"] = "runtime" if resize == "runtime" else "contract"
    engine = LlamaCppEngine(files[False], files[True], contract, name="f16", resize=handing)
    values, losses, tokens, prompt_tokens = [], 0.0, 0, 0
    with closing(engine):
        for sample in samples:
            shown = bilinear(sample, contract.grid) if resize == "bilinear" else sample
            answer = engine.complete(shown.prompt, max_new_tokens=limit)
            values.append(task.measure(answer.text, sample.reference)[task.primary_metric])
            score = engine.score(shown.prompt, sample.reference)
            losses, tokens = losses + score.loss * score.tokens, tokens + score.tokens
            prompt_tokens += answer.prompt_tokens
    return {
        task.primary_metric: round(sum(values) / len(values), 4),
        "all_right": round(sum(value == 1 for value in values) / len(values), 4),
        "target_loss": round(losses / tokens, 5),
        "prompt_tokens": prompt_tokens,
    }


def bilinear(sample: Sample, grid: ImageGrid) -> Sample:
    """The sample with its images on their grid by another kernel: nothing is left to resize."""
    messages = tuple(
        replace(
            message,
            parts=tuple(
                grid.prepare(part, "bilinear") if isinstance(part, Image.Image) else part
                for part in message.parts
            ),
        )
        for message in sample.messages
    )
    return replace(sample, messages=messages)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every training under every resize, for every seed."""
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed, (name, kernels) in product(arguments.seeds, TRAININGS.items()):
        config = train(name, kernels, arguments.steps, seed, arguments.folder)
        heldout = load_split(latest(config, "setup") / "data", "heldout")
        samples, limit = heldout[: arguments.samples], config.validation.max_new_tokens
        for resize in RESIZES:
            row = ask(config, resize, samples, limit)
            rows.setdefault((name, resize), []).append(row)
            print(f"seed {seed}, {name}, {resize}: {row}", flush=True)
    return {
        "command": f"python benchmarks/resize_kernels.py --steps {arguments.steps}"
        f" --samples {arguments.samples} --seeds {' '.join(map(str, arguments.seeds))}",
        "machine": {"machine": platform.machine(), "python": platform.python_version()},
        "model": "embedded:tiny, fine-tuned; f16 GGUF and mmproj in llama.cpp",
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "samples": arguments.samples,
        "scores": {
            name: {resize: _summary(rows[name, resize]) for resize in RESIZES} for name in TRAININGS
        },
    }


def _summary(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    means = {key: round(statistics.mean(row[key] for row in rows), 5) for key in rows[0]}
    return {**means, "by_seed": rows}


def main() -> None:
    """Train, ask, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/bench-resize")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    results = measure(arguments)
    arguments.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
