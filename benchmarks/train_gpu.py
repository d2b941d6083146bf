r"""vlmpipe against plain TRL on a GPU, at the real shapes of Qwen2.5-VL-3B and -7B.

    make bench-train-gpu       (or: python benchmarks/train_gpu.py --shape 3b --precision bf16)

Weights are random, drawn on the device and written to a folder that both sides load from (8 and 17
GB). Samples have about 2,000 tokens, image tokens included, of which 200 to 600 are supervised.
Each training is a process of its own; TRL is given the fastest of its batch sizes. Tokens a second
count no padding. MFU is what LoRA needs (see `train.py`) over seconds and over the FLOP/s of a
matrix product on this GPU.

Cases that are not run keep what the results file says of them. Without a GPU it says so and
ends well; `--shape tiny` runs the same code on a CPU, in a minute, to no other end.

Beside torch with CUDA it needs transformers, peft, accelerate, pyarrow, tensorboard, what vlmpipe
itself declares, TRL, datasets (with dill and multiprocess) and, for NF4, bitsandbytes. On a machine
that reaches no package registry they can be carried as wheels, fetched elsewhere with that
machine's `--python-version` and `--platform`:

    pip download --no-deps --only-binary=:all: -d wheels transformers==5.23.0 trl==1.16.0 \
        datasets==5.2.0 dill multiprocess xxhash pydantic pydantic-core annotated-types \
        typing-inspection ruamel.yaml bitsandbytes==0.50.2
    pip install --no-index --no-deps --target site wheels/*.whl                    (there)
    PYTHONPATH=site:src python benchmarks/train_gpu.py --shape 3b --precision bf16  (there)
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from evaluation_figures import Figure, markdown_table
from train_figures import batch_row, gpu_figures
from train_process import Recipe
from train_runs import fastest, our_batches, run_ours, run_trl, trl_by_batch
from train_setting import circumstances, prepare

RESULTS = Path(__file__).parent / "results/train_gpu.json"
SHAPES = ("3b", "7b")
PRECISIONS = ("bf16", "nf4")
MFU_GOAL = 0.45
"""For bf16 LoRA on the 3B."""

NO_GPU = (
    "bench-train-gpu: no CUDA device here, nothing was measured; run it where there is one,"
    " or `python benchmarks/train_gpu.py --shape tiny` to see its code run on a CPU"
)


def measure(shape: str, precision: str, folder: Path, options: argparse.Namespace) -> Any:
    """One case: TRL at its batch sizes, then both sides in turns."""
    tiny = shape == "tiny"
    recipe = Recipe(epochs=options.epochs, quantised=precision == "nf4", threads=None)
    device = "cpu" if tiny else "cuda"
    workload = "tiny" if tiny else "2k"
    setting = prepare(folder, recipe, options.samples, shape, workload, device)
    if not tiny:
        torch.cuda.empty_cache()
    search = trl_by_batch(folder, recipe)
    batch = fastest(search)
    mean_tokens = setting.tokens / options.samples
    batches = our_batches(recipe, batch, options.batch_tokens, mean_tokens)
    pairs = []
    for _ in range(options.rounds):
        theirs = run_trl(folder, recipe, batch)
        pairs.append((theirs, run_ours(folder, recipe, "all", batches)))
    goal = MFU_GOAL if (shape, precision) == ("3b", "bf16") else None
    return {
        **circumstances("train_gpu.py"),
        "device": "CPU" if tiny else torch.cuda.get_device_name(),
        "peak_flops": setting.peak_flops,
        "rounds": options.rounds,
        "recipe": {**asdict(recipe), "ours": asdict(batches)},
        "workload": setting.workload,
        "figures": gpu_figures(pairs, mean_tokens, setting.needed_s, goal),
        "trl": [batch_row(each) for each in search],
        "runs": [asdict(each) for pair in pairs for each in pair],
    }


def table(cases: dict[str, dict[str, Any]]) -> str:
    """Each case's figures in Markdown."""
    sections = []
    for name, case in cases.items():
        figures: dict[str, Figure] = case["figures"]
        work, recipe = case["workload"], case["recipe"]
        sections.append(
            f"## {name}\n\n{case['device']}, {case['peak_flops'] / 1e12:.0f} TFLOP/s in a matrix"
            f" product; {work['samples']} samples of {work['tokens'] / work['samples']:.0f} tokens,"
            f" {recipe['epochs']} epochs, {recipe['samples_a_step']} samples a step;"
            f" medians of {case['rounds']} alternating runs.\n\n{markdown_table(figures)}"
        )
    return "\n".join(sections)


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=(*SHAPES, "tiny"), action="append")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=8192, help="our token budget")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name}, none for tiny")
    return parser.parse_args()


def main() -> None:
    """Run the cases, print, and write the results beside this file."""
    asked = options()
    shapes = asked.shape or SHAPES
    if not torch.cuda.is_available() and "tiny" not in shapes:
        print(NO_GPU)
        return
    results = asked.results or (None if "tiny" in shapes else RESULTS)
    cases = json.loads(results.read_text())["cases"] if results and results.exists() else {}
    for shape in shapes:
        with tempfile.TemporaryDirectory(prefix="bench-train-", dir=asked.folder) as folder:
            for precision in asked.precision or PRECISIONS:
                cases[f"{shape} {precision}"] = measure(shape, precision, Path(folder), asked)
                if results:
                    write(results, cases)
    print(table(cases))


def write(results: Path, cases: dict[str, Any]) -> None:
    """JSON and Markdown; after each case, so that one that fails costs no other."""
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"cases": cases}, indent=2) + "\n", encoding="utf-8")
    results.with_suffix(".md").write_text(table(cases), encoding="utf-8")


if __name__ == "__main__":
    main()
