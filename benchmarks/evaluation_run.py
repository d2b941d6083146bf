"""What `vlmpipe evaluate` costs beside the engine itself: its idle time, and its memory.

A quick engine shows most: the embedded model as a GGUF file in llama.cpp answers in a tenth of a
second, and whatever the evaluation does between two answers weighs ten times what it would beside
a model of billions of parameters.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evaluation_figures import figure

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs/tiny.yaml"
ENGINE = "llama_cpp:q8_0"
SUMMARY = "llama_cpp-q8_0.summary.json"
SAMPLES = (100, 1000)
BUSY_GOAL = 0.95
GROWTH_GOAL = 1.1
TIMES = "x of 100 samples'"
"""Peak memory with ten times the samples, in peaks with the fewer."""

EVALUATE = """
import sys
from vlmpipe.cli.app import run
from vlmpipe.evaluation.memory import peak_memory_mib
code = run(sys.argv[1:])
print("PEAK", peak_memory_mib())
sys.exit(code)
"""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Busy share over 1,000 samples, and peak memory of 1,000 against 100."""
    with TemporaryDirectory(prefix="bench-evaluation-", dir=options.scratch) as scratch:
        folder = Path(scratch)
        trained = options.trained or _train(folder)
        data = _tables(folder, max(SAMPLES))
        found = {count: _evaluate(folder, trained, data, count) for count in SAMPLES}
    few, many = (found[count] for count in SAMPLES)
    return {
        "figures": {
            "engine busy": figure(many["busy"], "of the time", goal=BUSY_GOAL),
            "memory of the evaluation": figure(
                many["peak_mib"] / few["peak_mib"], TIMES, goal=GROWTH_GOAL, bound="at most"
            ),
            "memory of the engine's process": figure(
                many["engine_mib"] / few["engine_mib"], TIMES, goal=GROWTH_GOAL, bound="at most"
            ),
        },
        "workload": {
            "engine": f"{ENGINE} of the embedded model, references scored, answers measured",
            "samples": max(SAMPLES),
            "task": "table",
            "seconds": round(many["seconds"], 1),
            "peak MiB of the evaluation": {
                count: round(found[count]["peak_mib"]) for count in found
            },
            "peak MiB of the engine": {count: round(found[count]["engine_mib"]) for count in found},
        },
    }


def _train(folder: Path) -> Path:
    _vlmpipe(
        "run-all", "-c", CONFIG, f"run.outputs_dir={folder}", "run.name=bench", "--to", "convert"
    )
    return folder / "bench"


def _tables(folder: Path, count: int) -> Path:
    """As hard as those that the embedded model was trained on."""
    out = folder / "tables"
    _vlmpipe(
        *("data", "synth", "--task", "table", "--n", count, "--seed", 77),
        *("--difficulty", "0.0:0.15", "--out", out),
    )
    (found,) = out.glob("*.jsonl")
    return found


def _evaluate(folder: Path, trained: Path, data: Path, count: int) -> dict[str, Any]:
    """One evaluation of its own run folder, in a process of its own."""
    outputs = folder / f"outputs-{count}"
    run = outputs / "bench"
    shutil.copytree(trained, run, symlinks=True)
    shutil.rmtree(run / "predictions", ignore_errors=True)
    done = subprocess.run(
        [
            *(sys.executable, "-c", EVALUATE, "evaluate", "-c", str(CONFIG)),
            *("run.name=bench", f"run.outputs_dir={outputs}", "--engines", ENGINE),
            *("--data", str(data), "--limit", str(count), "--reliance", "0", "--json"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads((run / "predictions" / SUMMARY).read_text(encoding="utf-8"))
    (facts,) = summary["passes"].values()
    (split,) = summary["splits"].values()
    return {
        "busy": facts["busy"],
        "engine_mib": facts["peak_memory_mib"],
        "peak_mib": float(done.stdout.rsplit("PEAK", 1)[1]),
        "seconds": split["latency_s"]["mean"] * split["answered"],
    }


def _vlmpipe(*words: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "vlmpipe", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )
