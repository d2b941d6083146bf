"""Our streamed merge against PEFT's `merge_and_unload` + `save_pretrained`.

    make bench-merge                 (or: python benchmarks/merge.py --gb 8.2 --rounds 3)

Both merge the same adapter (r=16, every linear layer of the language model) into the same sharded
bfloat16 checkpoint with random weights, in alternating runs, each in a process of its own, on a
base that lies in the page cache as far as memory holds it. PEFT loads in bfloat16; it adds a
float32 product to bfloat16 weights, so it too computes in float32 and rounds once: the results are
compared bit by bit.

- wall: from opening the base to the last file written, imports left out. Ours brings every file to
  the disk (fsync) within its time, as it always does; PEFT does not. `synced` adds the fsync of its
  files to PEFT's time.
- anonymous memory: highest RssAnon in /proc/PID/status, sampled every 10 ms, libraries included;
  pages of mapped files do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import merge_checkpoint as checkpoint

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/merge.json"
SIDES = ("peft", "ours", "ours_proven")
LIBRARIES = ("vlmpipe", "torch", "transformers", "peft", "safetensors")
SAMPLE_S = 0.01


@dataclass(frozen=True)
class Run:
    """One merge in a process of its own."""

    side: str
    wall_s: float
    synced_s: float
    peak_anon_bytes: int


def merge_ours(base: Path, adapter: Path, target: Path, *, proofs: bool) -> float:
    """Seconds of our merge, the files brought to the disk."""
    import torch  # noqa: F401  (imports are not measured)

    from vlmpipe.export.merging.adapter import read_adapter
    from vlmpipe.export.merging.merge import merge_adapter
    from vlmpipe.export.merging.weights import Checkpoint

    start = time.perf_counter()
    target.mkdir()
    merge_adapter(Checkpoint(base), checkpoint.FAMILY, read_adapter(adapter), target, proofs=proofs)
    return time.perf_counter() - start


def merge_with_peft(base: Path, adapter: Path, target: Path) -> float:
    """Seconds of PEFT's merge."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

    _ = Qwen2_5_VLForConditionalGeneration  # imports are not measured
    shard = max(path.stat().st_size for path in base.glob("*.safetensors"))
    start = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(target, max_shard_size=shard)
    return time.perf_counter() - start


def child(side: str, folder: Path) -> None:
    """Merge once and print what it took."""
    base, adapter, target = folder / "base", folder / "adapter", folder / side
    if side == "peft":
        wall = merge_with_peft(base, adapter, target)
    else:
        wall = merge_ours(base, adapter, target, proofs=side == "ours_proven")
    start = time.perf_counter()
    for path in target.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    print(json.dumps({"wall_s": wall, "synced_s": wall + time.perf_counter() - start}))


def run(side: str, folder: Path) -> Run:
    """One child process from a clean target, with its memory watched."""
    shutil.rmtree(folder / side, ignore_errors=True)
    settle(folder / "base")
    command = [sys.executable, __file__, "--child", side, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(SAMPLE_S)
        out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{side} failed:\n{err.decode()[-3000:]}")
    figures = json.loads(out.decode().splitlines()[-1])
    result = Run(side, figures["wall_s"], figures["synced_s"], peak)
    print(f"{side}: {result.wall_s:.1f} s ({result.synced_s:.1f} s synced), "
          f"{result.peak_anon_bytes / 1e9:.2f} GB anonymous", flush=True)  # fmt: skip
    return result


def settle(base: Path) -> None:
    """What earlier runs wrote is on the disk, and the base in the page cache, for either side."""
    os.sync()
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def differing(folder: Path) -> dict[str, int]:
    """Tensors and values of ours that are not PEFT's, bit by bit."""
    import torch

    from vlmpipe.export.merging.weights import Checkpoint
    from vlmpipe.models.checkpoint_keys import parameter_name

    ours, theirs = Checkpoint(folder / "ours_proven"), Checkpoint(folder / "peft")
    by_name = {parameter_name(checkpoint.FAMILY, key): key for key in theirs.keys}
    counts = {"tensors": 0, "values": 0, "differing_tensors": 0, "differing_values": 0}
    for key, tensor in ours.tensors():
        other = theirs.tensor(by_name.pop(parameter_name(checkpoint.FAMILY, key)))
        wrong = 0 if torch.equal(tensor, other) else int((tensor != other).sum())
        counts["tensors"] += 1
        counts["values"] += tensor.numel()
        counts["differing_tensors"] += wrong > 0
        counts["differing_values"] += wrong
    by_name.pop("lm_head.weight", None)  # a tied head that PEFT's side may have stored
    if by_name:
        sys.exit(f"tensors that only PEFT wrote: {sorted(by_name)[:5]}")
    return counts


def figures_of(runs: list[Run], differences: dict[str, int]) -> dict[str, Any]:
    """Ratios of medians with the lowest and highest over pairs of the same round."""

    def of(side: str, field: str) -> list[float]:
        return [float(getattr(run, field)) for run in runs if run.side == side]

    def ratio(side: str, field: str, against: str, goal: float | None) -> dict[str, Any]:
        mine, theirs = of(side, field), of("peft", against)
        pairs = [a / b for a, b in zip(mine, theirs, strict=True)]
        value = statistics.median(mine) / statistics.median(theirs)
        return figure(value, "ours / PEFT", goal, [min(pairs), max(pairs)])

    def figure(value: float, unit: str, goal: float | None, spread: Any) -> dict[str, Any]:
        met = None if goal is None else value <= goal
        return {"value": value, "unit": unit, "goal": goal, "met": met, "spread": spread}

    def plain(side: str, field: str, unit: str, scale: float = 1.0) -> dict[str, Any]:
        values = [value / scale for value in of(side, field)]
        return figure(statistics.median(values), unit, None, [min(values), max(values)])

    return {
        "peak anonymous memory": ratio("ours_proven", "peak_anon_bytes", "peak_anon_bytes", 0.15),
        "wall, proofs left out": ratio("ours", "wall_s", "wall_s", 0.6),
        "wall, with our proofs": ratio("ours_proven", "wall_s", "wall_s", 1.0),
        "values that differ": figure(differences["differing_values"], "values", 0, None),
        "wall, proofs left out, PEFT synced": ratio("ours", "wall_s", "synced_s", None),
        "wall, with our proofs, PEFT synced": ratio("ours_proven", "wall_s", "synced_s", None),
        "wall of PEFT": plain("peft", "wall_s", "s"),
        "wall of ours, proofs left out": plain("ours", "wall_s", "s"),
        "wall of ours": plain("ours_proven", "wall_s", "s"),
        "anonymous memory of PEFT": plain("peft", "peak_anon_bytes", "GB", 1e9),
        "anonymous memory of ours": plain("ours_proven", "peak_anon_bytes", "GB", 1e9),
    }


def measure(folder: Path, gigabytes: float, rounds: int) -> dict[str, Any]:
    """Make the checkpoint, alternate the sides, compare what they wrote."""
    checkpoint.write_checkpoint(folder / "base", gigabytes)
    modules = checkpoint.write_adapter(folder / "base", folder / "adapter")
    sizes = [path.stat().st_size for path in (folder / "base").glob("*.safetensors")]
    print(f"base: {sum(sizes) / 1e9:.2f} GB in {len(sizes)} shards, {modules} adapted layers")
    runs = [run(side, folder) for _ in range(rounds) for side in SIDES]
    differences = differing(folder)
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": _git_commit(),
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
        "checkpoint": {"bytes": sum(sizes), "shards": len(sizes), "adapted_layers": modules},
        "figures": figures_of(runs, differences),
        "compared": differences,
        "runs": [asdict(each) for each in runs],
    }


def table(results: dict[str, Any]) -> str:
    """The figures in Markdown."""
    size, machine = results["checkpoint"], results["machine"]
    rounds = sum(run["side"] == "peft" for run in results["runs"])
    lines = [
        f"Merging an adapter of {size['adapted_layers']} layers into a base of"
        f" {size['bytes'] / 1e9:.1f} GB in {size['shards']} files, on {machine['cores']} cores;"
        f" median of {rounds} alternating runs.",
        "",
        "| figure | value | goal | met | lowest – highest |",
        "|---|---|---|---|---|",
    ]
    for name, each in results["figures"].items():
        goal = "" if each["goal"] is None else f"≤ {each['goal']:g}"
        met = {None: "", True: "yes", False: "**no**"}[each["met"]]
        spread = "" if each["spread"] is None else " – ".join(f"{v:.3g}" for v in each["spread"])
        lines.append(f"| {name} | {each['value']:.3g} {each['unit']} | {goal} | {met} | {spread} |")
    return "\n".join(lines) + "\n"


def _git_commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or None


def main() -> None:
    """Run, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gb", type=float, default=8.2, help="size of the base, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder)
        return
    with tempfile.TemporaryDirectory(prefix="bench-merge-", dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments.gb, arguments.rounds)
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    arguments.results.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
