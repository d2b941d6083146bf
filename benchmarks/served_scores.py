"""The held-out score of a finished run at each hand-off: adapter, merged, every GGUF file.

    python benchmarks/served_scores.py -c configs/tiny.yaml

The same held-out samples that validate asked, greedy, prepared by the contract everywhere. `base`
and `tuned` are read from what validate published; the rest is asked here.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from vlmpipe.config import Config, load_config
from vlmpipe.data.store import load_split
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.base import Engine
from vlmpipe.engines.hf import HfEngine
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.export.gguf_files import FOLDER
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.pipeline.store import RunStore
from vlmpipe.stages import STAGES
from vlmpipe.tasks import mean_metrics, task_of

ROOT = Path(__file__).parent.parent


def latest(config: Config, name: str) -> Path:
    """The newest published folder of a stage."""
    stage = next(each for each in STAGES if each.name == name)
    version = RunStore(config.run.outputs_dir, config.run.name).latest(stage)
    if version is None:
        sys.exit(f"run {config.run.name} has no {name}: vlmpipe run-all -c CONFIG first")
    return version.folder


def engines(config: Config) -> Iterator[Engine]:
    """The merged model in transformers, then each GGUF file in llama.cpp."""
    merged = latest(config, "merge")
    contract = read_contract(merged)
    model = load_model(merged / "model", dtype="float32", quantization=None)
    encoder = Encoder(load_tokenizer(merged / "model"), contract)
    yield HfEngine(model.eval(), encoder, "hf:merged")
    yield from _files(latest(config, "convert") / FOLDER, contract)


def _files(folder: Path, contract: PreprocessContract) -> Iterator[Engine]:
    files = sorted(folder.glob("*.gguf"), key=lambda path: -path.stat().st_size)
    mmproj = next((path for path in files if "mmproj" in path.name), None)
    for path in files:
        if path != mmproj:
            yield LlamaCppEngine(path, mmproj, contract, name=f"llama_cpp:{path.stem}")


def score(engine: Engine, samples: Sequence[Sample], limit: int) -> dict[str, float]:
    """Mean metrics of its answers."""
    rows = []
    for sample in samples:
        answer = engine.complete(sample.prompt, max_new_tokens=limit).text
        rows.append(task_of(sample.task).measure(answer, sample.reference))
    return mean_metrics(rows)


def measure(config: Config) -> dict[str, Any]:
    """Scores by engine, and how far each lies from the adapter's."""
    heldout = load_split(latest(config, "setup") / "data", "heldout")
    samples = heldout[: config.validation.heldout_samples]
    published = json.loads((latest(config, "validate") / "results.json").read_text("utf-8"))
    primary = task_of(config.data.task).primary_metric
    scores = {
        f"hf:{model}": {primary: published["metrics"][f"heldout/{primary}/{model}"]}
        for model in ("base", "tuned")
    }
    for engine in engines(config):
        with closing(engine):
            scores[engine.name] = score(engine, samples, config.validation.max_new_tokens)
        print(f"{engine.name}: {primary} {scores[engine.name][primary]:.4f}", flush=True)
    tuned = scores["hf:tuned"][primary]
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"machine": platform.machine(), "python": platform.python_version()},
        "task": config.data.task,
        "samples": len(samples),
        "scores": scores,
        "difference_from_tuned": {
            name: round(each[primary] - tuned, 6) for name, each in scores.items()
        },
    }


def main() -> None:
    """Ask, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, as vlmpipe takes them")
    arguments = parser.parse_args()
    config = load_config([arguments.config], arguments.settings)
    results = measure(config)
    target = ROOT / f"benchmarks/results/served-{config.data.task}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results["difference_from_tuned"], indent=2))


if __name__ == "__main__":
    main()
