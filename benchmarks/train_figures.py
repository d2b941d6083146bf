"""What the runs of the training benchmark say, as figures beside their goals and as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from evaluation_figures import Figure, figure, markdown_table
from train_runs import Run

SPEED_GOAL, SPEED_FLOOR, MEMORY_GOAL, LOSS_GOAL, EPOCH_GOAL = 2.0, 1.5, 0.7, 1e-3, 1.2
GPU_SPEED_GOAL = 1.5

BATCH_COLUMNS = {
    "samples to a forward pass": ("batch", "{}"),
    "samples/s": ("samples_per_s", "{:.3f}"),
    "memory over the loaded model": ("risen_mb", "{:.0f} MB"),
}
PART_COLUMNS = {
    "part": ("part", "{}"),
    "samples/s": ("samples_per_s", "{:.3f}"),
    "x TRL": ("over_trl", "{:.2f}"),
    "x none": ("over_none", "{:.2f}"),
    "memory over the loaded model": ("risen_mb", "{:.0f} MB"),
    "of TRL's": ("risen_of_trl", "{:.2f}"),
}
"""Heading to field and form."""


def figures_of(
    pairs: Sequence[tuple[Run, Run]], compared: Sequence[dict[str, float]], needed_s: float
) -> dict[str, Figure]:
    """Ratios of medians, with the lowest and highest over pairs of the same round."""
    theirs, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {
        **speeds(theirs, ours),
        **memories(theirs, ours),
        **losses(compared),
        **second_epoch(ours),
        **by_side("TRL", theirs, needed_s),
        **by_side("ours", ours, needed_s),
    }


def speeds(theirs: Sequence[Run], ours: Sequence[Run]) -> dict[str, Figure]:
    """How many times as fast as TRL."""
    training = [run.samples_per_s for run in ours], [run.samples_per_s for run in theirs]
    ready = [run.samples / run.ready_s for run in ours], [r.samples / r.ready_s for r in theirs]
    return {
        "samples/s": _ratio(*training, goal=SPEED_GOAL),
        "samples/s, against the floor": _ratio(*training, goal=SPEED_FLOOR),
        "samples/s, with proofs": _ratio(*ready),
    }


def memories(theirs: Sequence[Run], ours: Sequence[Run]) -> dict[str, Figure]:
    """Peaks, as shares of TRL's."""

    def ratio(field: str, **goal: Any) -> Figure:
        return _ratio(
            [getattr(run, field) for run in ours], [getattr(run, field) for run in theirs], **goal
        )

    return {
        "peak memory over the loaded model": ratio(
            "risen_bytes", goal=MEMORY_GOAL, bound="at most"
        ),
        "peak memory of the process while training": ratio("peak_bytes"),
        "peak memory of the process, proofs included": ratio("process_peak_bytes"),
    }


def losses(compared: Sequence[dict[str, float]]) -> dict[str, Figure]:
    """The largest relative difference of a sample's loss in fp32."""
    return {
        f"largest difference of a sample's fp32 loss from {name}": figure(
            largest_difference(compared, key), "of it", goal=LOSS_GOAL, bound="at most"
        )
        for name, key in (("TRL's", "trl"), ("transformers'", "transformers"))
    }


def largest_difference(compared: Sequence[dict[str, float]], against: str) -> float:
    """Relative, over all samples."""
    return max(abs(each["ours"] - each[against]) / abs(each[against]) for each in compared)


def second_epoch(ours: Sequence[Run]) -> dict[str, Figure]:
    """Its speed over the first's, which began with filling the disk cache."""
    gains = [run.epochs_s[0] / run.epochs_s[1] for run in ours if len(run.epochs_s) > 1]
    if not gains:
        return {}
    gain = figure(statistics.median(gains), "x the first's speed", goal=EPOCH_GOAL, spread=gains)
    return {"second epoch, disk cache": gain}


def by_side(side: str, runs: Sequence[Run], needed_s: float) -> dict[str, Figure]:
    """Speed and MFU; `needed_s` is what a sample's FLOPs take at the machine's peak."""
    found = [run.samples_per_s for run in runs]
    used = [speed * needed_s for speed in found]
    return {
        f"samples/s of {side}": figure(statistics.median(found), "1/s", spread=found),
        f"MFU of {side}": figure(statistics.median(used), "of the peak", spread=used),
    }


def _ratio(above: Sequence[float], below: Sequence[float], **goal: Any) -> Figure:
    each = [a / b for a, b in zip(above, below, strict=True)]
    return figure(statistics.median(above) / statistics.median(below), "x TRL", spread=each, **goal)


def gpu_figures(
    pairs: Sequence[tuple[Run, Run]], mean_tokens: float, needed_s: float, mfu_goal: float | None
) -> dict[str, Figure]:
    """Speed, MFU and the device's memory on both sides; `mean_tokens` are those of a sample."""
    theirs, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    peaks = [run.device_peak_bytes for run in ours], [run.device_peak_bytes for run in theirs]
    ratio, _, with_proofs = speeds(theirs, ours).values()
    met = ratio["value"] >= GPU_SPEED_GOAL
    found = {
        "tokens/s": {**ratio, "goal": GPU_SPEED_GOAL, "met": met},
        "tokens/s, with proofs": with_proofs,
    }
    if all(peaks[1]):
        found["peak memory of the GPU"] = _ratio(*peaks)
    for side, runs, goal in (("TRL", theirs, None), ("ours", ours, mfu_goal)):
        rates = [run.samples_per_s * mean_tokens for run in runs]
        used = [run.samples_per_s * needed_s for run in runs]
        found[f"tokens/s of {side}"] = figure(statistics.median(rates), "1/s", spread=rates)
        found[f"MFU of {side}"] = figure(
            statistics.median(used), "of the peak", goal=goal, spread=used
        )
        gigabytes = [run.device_peak_bytes / 1e9 for run in runs]
        if all(gigabytes):
            found[f"peak memory of {side}"] = figure(
                statistics.median(gigabytes), "GB", spread=gigabytes
            )
    return found


def parts_table(parts: dict[str, Run], pairs: Sequence[tuple[Run, Run]]) -> list[dict[str, Any]]:
    """Each part against TRL and against vlmpipe with none of them."""
    theirs = sorted((pair[0] for pair in pairs), key=lambda run: run.samples_per_s)
    ours = sorted((pair[1] for pair in pairs), key=lambda run: run.samples_per_s)
    trl, all_parts = theirs[len(theirs) // 2], ours[len(ours) // 2]
    rows = {"TRL": trl, **parts, "all": all_parts}
    return [
        {
            "part": name,
            "samples_per_s": run.samples_per_s,
            "over_trl": run.samples_per_s / trl.samples_per_s,
            "over_none": run.samples_per_s / parts["none"].samples_per_s,
            "risen_mb": run.risen_bytes / 1e6,
            "risen_of_trl": run.risen_bytes / trl.risen_bytes,
        }
        for name, run in rows.items()
    ]


def batch_row(run: Run) -> dict[str, Any]:
    """TRL at one batch size."""
    return {
        "batch": run.settings["batch"],
        "samples_per_s": run.samples_per_s,
        "risen_mb": run.risen_bytes / 1e6,
        "process_mb": run.peak_bytes / 1e6,
    }


def table(results: dict[str, Any]) -> str:
    """The figures in Markdown."""
    sections = [
        _heading(results),
        markdown_table(results["figures"]),
        "TRL at every batch size, one epoch each; the ratios are against the fastest.\n",
        _rows(BATCH_COLUMNS, results["trl"]),
    ]
    if results["parts"]:
        sections += [
            "Each part of vlmpipe alone, and all of them; `none` is vlmpipe with TRL's loss and"
            " batches.\n",
            _rows(PART_COLUMNS, results["parts"]),
        ]
    return "\n".join([*sections, _shares(results)])


def _heading(results: dict[str, Any]) -> str:
    work, recipe = results["workload"], results["recipe"]
    return (
        f"LoRA in {recipe['dtype']} on {results['machine']['cores']} cores:"
        f" {work['samples']} samples in {recipe['epochs']} epochs,"
        f" {recipe['samples_a_step']} a step; images of {', '.join(work['image sizes'])},"
        f" answers of {work['answer tokens'][0]} to {work['answer tokens'][2]} tokens;"
        f" gradient checkpointing {'on' if recipe['checkpointing'] else 'off'} on both sides;"
        f" medians of {results['rounds']} alternating runs.\n"
    )


def _shares(results: dict[str, Any]) -> str:
    told = "; ".join(
        f"{name} " + ", ".join(f"{part} {share:.1%}" for part, share in row["shares"].items())
        for name, row in results["shares"].items()
    )
    return f"Multiplications of an image token and a row of logits: {told}.\n"


def _rows(columns: dict[str, tuple[str, str]], rows: Sequence[dict[str, Any]]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(form.format(row[key]) for key, form in columns.values()) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
