"""A run's folder as the stages leave it, written through the pipeline's own manifests."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image, ImageDraw
from pyarrow import parquet

from vlmpipe.data.rows import to_row
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, Record, Sampling, System, file_name
from vlmpipe.pipeline.files import write_json
from vlmpipe.pipeline.manifest import FileRecord, Manifest, VerdictRecord

TABLE = (
    "<table><thead><tr><td>Variable</td><td>Hazard ratio</td><td>95 % CI</td></tr></thead>"
    "<tbody><tr><td>Age &gt;69</td><td>0.839</td><td>0.310–2.268</td></tr>"
    '<tr><td>Sex</td><td colspan="2">not reported</td></tr>'
    "<tr><td>Female</td><td>0.426</td><td>0.152–1.190</td></tr></tbody></table>"
)
BELOW = "heldout/teds/tuned is 0.74, below its threshold 0.9 (validate.thresholds)"
NUMBERS = {"check": 0, "setup": 1, "train": 2, "validate": 3, "merge": 4, "convert": 5, "deploy": 6}


def publish(
    run: Path,
    stage: str,
    *,
    files: Mapping[str, str | bytes] | None = None,
    passed: bool | None = None,
    mode: str = "enforce",
    reasons: Sequence[str] = (),
    version: str = "v001",
    **manifest: Any,
) -> Path:
    """A version of a stage with its files and manifest, and `latest` upon it."""
    folder = run / f"{NUMBERS[stage]}_{stage}" / version
    folder.mkdir(parents=True)
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    outputs = {
        str(path.relative_to(folder)): FileRecord.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    verdict = None
    if passed is not None:
        verdict = VerdictRecord(passed=passed, mode=mode, reasons=list(reasons))
    fields: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "fingerprint_parts": {},
        "settings": {f"{stage}.gate_like": 1},
        "inputs": {},
        "timings": {"begun": "2026-11-20T16:40:00+00:00", "seconds": 12.5},
        "argv": ["/opt/venv/bin/vlmpipe", "run-all", "-c", "configs/tiny.yaml", "run.name=demo"],
    }
    Manifest(
        stage=stage,
        number=NUMBERS[stage],
        outputs=outputs,
        verdict=verdict,
        **{**fields, **manifest},
    ).write(folder)
    link = folder.parent / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    return folder


def picture(folder: Path, name: str, size: tuple[int, int] = (420, 160)) -> None:
    """A small drawing under a folder."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for row in range(4):
        for column in range(3):
            box = (column * 140, row * 40, column * 140 + 139, row * 40 + 39)
            draw.rectangle(box, outline="black")
            draw.text((box[0] + 8, box[1] + 12), f"r{row} c{column}", fill="black")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def loss_rows() -> str:
    """metrics.jsonl of a training in three phases."""
    rows: list[dict[str, Any]] = []
    for step in range(1, 61):
        phase = ("small", "medium", "large")[(step - 1) // 20]
        loss = 3.4 * math.exp(-step / 22) + 0.6 + 0.25 * math.sin(step * 1.7)
        rows.append({"step": step, "phase": phase, "loss": loss, "learning_rate": 2e-4})
        if step % 20 == 0:
            rows.append({"step": step, "phase": phase, "eval_loss": loss + 0.3})
    return "".join(json.dumps(row) + "\n" for row in rows)


def prediction(sample: str, split: str, model: str, text: str, **more: Any) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    return {
        "sample": sample,
        "split": split,
        "model": model,
        "task": "table",
        "prompt": "<image>Convert the table in the image to HTML.",
        "prediction": text,
        "reference": TABLE,
        "metrics": {"teds": 0.1 if model == "base" else 0.83},
        "loss": 1.2,
        "cut": model == "base",
        **more,
    }


def validate_metrics() -> dict[str, float]:
    """Flat metrics as stage 3 names them."""
    found: dict[str, float] = {}
    for split, gain in (("train", 0.1), ("heldout", 0.0)):
        for model, quality in (("base", 0.08), ("tuned", 0.74 + gain)):
            found[f"{split}/teds/{model}"] = quality
            found[f"{split}/teds_structure/{model}"] = quality + 0.1
            found[f"{split}/exact_match/{model}"] = 0.25 if model == "tuned" else 0.0
            found[f"{split}/cer/{model}"] = 1 - quality
            found[f"{split}/loss/{model}"] = 3.1 if model == "base" else 0.9
    for model, loss in (("base", 3.1), ("tuned", 0.9)):
        found[f"reliance/loss_true/{model}"] = loss
        found[f"reliance/loss_blank/{model}"] = loss + 0.3
        found[f"reliance/loss_swapped/{model}"] = loss + 0.41
        found[f"reliance/teds_true/{model}"] = 0.7
        found[f"reliance/teds_blank/{model}"] = 0.2
        found[f"reliance/teds_swapped/{model}"] = 0.3
        found[f"reliance/image_gain/{model}"] = 0.41
        found[f"reliance/blank_gain/{model}"] = 0.3
        found[f"speed/tokens_per_second/{model}"] = 41.3
        found[f"speed/seconds_per_answer/{model}"] = 2.31
    return {**found, "memory/peak_mib": 1289.0}


def publish_validate(
    run: Path,
    answers: Sequence[Mapping[str, Any]] = (),
    judgement: Mapping[str, Any] | None = None,
    **verdict: Any,
) -> Path:
    """Stage 3 with two samples, or with the given predictions; `judgement` is what older runs do
    not have in their results.
    """
    folder = run / "pictures"
    for name in ("samples/heldout_00_0.png", "samples/train_00_0.png"):
        picture(folder, name)
    pictures = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
    rows = answers or [
        prediction("table-7", "heldout", "base", "aa 7 7 7 ‖ ‖ 0.0 " * 40),
        prediction("table-7", "heldout", "tuned", TABLE.replace("0.839", "0.889")),
        prediction("table-1", "train", "base", ""),
        prediction("table-1", "train", "tuned", TABLE),
    ]
    results = {
        "primary_metric": "teds",
        "splits": {"train": 5, "heldout": 8},
        "reliance": {"split": "heldout", "samples": 8, "not_measured": None},
        "notes": ["3 of 13 tuned answers were cut at validate.max_new_tokens"],
        "gallery": [
            {"sample": "table-1", "split": "train", "pictures": ["samples/train_00_0.png"]},
            {"sample": "table-7", "split": "heldout", "pictures": ["samples/heldout_00_0.png"]},
        ],
        **(judgement or {}),
    }
    files: dict[str, str | bytes] = {
        "results.json": json.dumps(results),
        "predictions.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        **pictures,
    }
    return publish(
        run,
        "validate",
        files=files,
        metrics=validate_metrics(),
        summary=["teds on 8 held-out samples: base 0.080, tuned 0.740"],
        **{"passed": True, **verdict},
    )


def publish_whole_run(run: Path) -> Path:
    """Every stage, validate's gate failed and let through."""
    publish(run, "check", summary=["17 requirements held against this machine, 2 with advice"])
    model = {
        "id": "embedded:tiny",
        "revision": "3fd5bbd1c2aa",
        "family": "qwen2_5_vl",
        "parameters": 5_900_000,
    }
    publish(run, "setup", files={"model.json": json.dumps(model)}, summary=["38 training samples"])
    publish(
        run,
        "train",
        files={"metrics.jsonl": loss_rows(), "audit.json": json.dumps(AUDIT)},
        metrics={"train/loss_first": 3.8, "train/loss_last": 0.91, "train/steps": 60.0},
        passed=True,
        mode="report",
        summary=["loss 3.8000 -> 0.9100 over 60 steps"],
    )
    publish_validate(
        run,
        judgement=JUDGEMENT,
        passed=False,
        mode="report",
        reasons=[BELOW],
    )
    gates = {"validate": {"passed": False, "mode": "report", "allowed_by": "validate.gate=report"}}
    publish(run, "merge", gates=gates, passed=True, summary=["196 tensors changed of 196 adapted"])
    publish(run, "convert", files={k: json.dumps(v) for k, v in CONVERTED.items()}, passed=True)
    return publish(
        run,
        "deploy",
        files={"deploy.json": json.dumps(DEPLOYED)},
        metrics={"deploy/latency_p50_s": 1.31, "deploy/tokens_per_second": 96.2},
        passed=True,
        facts={"libraries": {"torch": "2.13.0", "peft": "0.21.2"}, "device": {"cpu_count": 2}},
        git_commit="abc1bfe",
    )


def write_broken_json(folder: Path, name: str) -> None:
    """Half of a JSON file."""
    write_json(folder / name, {"primary_metric": "teds"})
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) // 2])


AUDIT = {
    "census": {"trained_parameters": 393216, "total_parameters": 5_900_000},
    "mask": {
        "scope": "assistant_after_image",
        "audited": 16,
        "tokens": 4210,
        "image_tokens": 1536,
        "supervised_tokens": 1893,
        "samples": [
            {
                "id": "table-1",
                "tokens": 263,
                "image_tokens": 96,
                "supervised_tokens": 118,
                "supervised_spans": [TABLE + "<|im_end|>"],
            }
        ],
    },
    "phases": [
        {
            "name": "small",
            "max_size": [168, 168],
            "samples": 20,
            "steps": 20,
            "learning_rate": 5e-3,
            "widened": True,
        },
        {
            "name": "large",
            "max_size": [448, 448],
            "samples": 38,
            "steps": 40,
            "learning_rate": 2e-4,
            "widened": False,
        },
    ],
}
DEPLOYED = {
    "smoke_tests": [
        {"name": "GET /health", "passed": True, "detail": "ok"},
        {"name": "POST /chat", "passed": True, "detail": "12 tokens"},
    ]
}


def rung(name: str, against: str, kld: float, limit: float | None = None) -> dict[str, Any]:
    """A line of parity.json."""
    passed = limit is None or kld <= limit
    return {
        "rung": name,
        "against": against,
        "kld_mean": kld,
        "kld_p99": kld * 20,
        "top1_agreement": 1.0 - kld / 10,
        "exact_match": 1.0,
        "metric": 0.971,
        "loss": 0.9,
        "limit": limit,
        "passed": passed,
        "why": None if passed else f"KL divergence {kld} nats a token, limit {limit}",
    }


FILES = (("f16", 12_400_000, 3.3e-8), ("q8_0", 6_900_000, 1e-5), ("q2_k", 3_100_000, 0.812))
CONVERTED: dict[str, Any] = {
    "quant_table.json": {
        "metric": "teds",
        "merged_metric": 0.9715,
        "rows": [
            {
                "quant": quant,
                "file": f"demo-finetune-{quant}.gguf",
                "size_bytes": size,
                "tensor_types": {"F16": 3},
                "kld_mean": kld,
                "kld_adapter": kld + 3e-4,
                "metric": 0.97,
                "loss": 0.9012,
                "prompt_tokens_per_second": 812.4,
                "answer_tokens_per_second": 101.2,
                "memory_mib": 187.4,
                "excluded": None if kld < 0.5 else "KL divergence 0.812 nats a token, limit 0.15",
            }
            for quant, size, kld in FILES
        ],
    },
    "parity.json": {
        "probe": {"sha256": "0" * 64, "count": 32, "off_grid": 24, "samples": []},
        "rungs": [
            rung("merged", "adapter on w16", 1.2e-7, 1e-3),
            rung("merged", "adapter", 3.1e-4, 0.3),
            rung("f16", "merged", 3.3e-8, 1e-4),
            rung("q2_k", "f16", 0.812, 0.15),
        ],
        "recommended": "q8_0",
        "why": "the smallest of 2 whose task metric lies within 0.02 of the merged model's",
        "diagnosis": None,
    },
    "artifacts.json": {
        "quants": {"f16": "demo-finetune-f16.gguf", "q8_0": "demo-finetune-q8_0.gguf"},
        "mmproj": "demo-finetune-mmproj-f16.gguf",
        "recommended": "q8_0",
        "excluded": {"q2_k": "KL divergence 0.812 nats a token, limit 0.15"},
    },
}


def system(engine: str = "hf:adapter", **more: Any) -> System:
    """What a record says of its engine."""
    kind = engine.partition(":")[0]
    fields: dict[str, Any] = {
        "engine": engine,
        "model_name": "demo-finetune",
        "engine_type": kind if kind in ("hf", "llama_cpp", "openai", "ollama") else "openai",
        "engine_version": "transformers 5.23.0",
        "lora_enabled": engine == "hf:adapter",
        "merge_state": "adapter" if engine == "hf:adapter" else "merged",
        "quantization": engine.partition(":")[2] if kind == "llama_cpp" else None,
        "digests": {"adapter_model.safetensors": "ab" * 32},
        "sampling": Sampling(max_new_tokens=256),
        "seed": 42,
        "preprocess_contract": "cd" * 32,
    }
    return System(**{**fields, **more})


def record(engine: str, sample: str, text: str, teds: float = 1.0, **more: Any) -> Record:
    """One answer to the table of the fakes."""
    fields: dict[str, Any] = {
        "sample": sample,
        "split": "heldout",
        "inputs": f"inputs of {sample}",
        "task": "table",
        "prompt": "<image>Convert the table in the image to HTML.",
        "reference": TABLE,
        "status": "answered",
        "prediction": text,
        "metrics": {"teds": teds, "cer": 1 - teds},
        "loss": 0.5,
        "token_accuracy": 0.9,
        "reference_tokens": 10,
        "completion_tokens": 21,
        "seconds": 2.5,
        "first_token_seconds": 0.5,
    }
    known = {name: more.pop(name) for name in System.model_fields if name in more}
    return Record(**system(engine, **known).model_dump(), **{**fields, **more})


def publish_records(run: Path, records: Iterable[Record]) -> None:
    """Files of records as `vlmpipe evaluate` leaves them."""
    folder = run / PREDICTIONS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for each in records:
        with (folder / file_name(each.engine)).open("a", encoding="utf-8") as stream:
            stream.write(each.as_line())


def publish_data(
    run: Path, ids: Sequence[str], size: tuple[int, int] = (420, 160), pictures: int = 1
) -> Path:
    """Stage 1 with held-out samples of these ids."""
    noise = Image.effect_noise(size, 90).convert("RGB")
    rows = [
        to_row(
            Sample(
                id=each,
                messages=(
                    Message(
                        "user", (*[noise] * pictures, "Convert the table in the image to HTML.")
                    ),
                    Message("assistant", (TABLE,)),
                ),
                task="table",
            ),
            1.0,
        )
        for each in ids
    ]
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return publish(run, "setup", files={"data/heldout.parquet": stream.getvalue()})


def whole_evaluation(run: Path) -> None:
    """What stands beside the stages: records of four engines, a judge's and people's verdicts."""
    engines = ("hf:base", "hf:adapter", "llama_cpp:q8_0", "llama_cpp:q4_k_m")
    for place in range(12):
        for number, engine in enumerate(engines):
            wrong = TABLE.replace("0.839", f"0.8{place}{number}")
            text = "aa 7 7" if number == 0 else TABLE if place % 3 else wrong
            teds = 0.05 if number == 0 else 1.0 if place % 3 else 0.8 - place / 100
            publish_records(run, [record(engine, f"table-{place}", text, teds)])
    for folder, judgements in (("judge", JUDGED), ("review", REVIEWED)):
        (run / folder).mkdir(exist_ok=True)
        for name, content in judgements.items():
            (run / folder / name).write_text(json.dumps(content))


def estimate(value: float, n: int = 12) -> dict[str, Any]:
    """A figure as a judge's summary holds it."""
    return {"value": value, "n": n, "low": value - 0.1, "high": value + 0.1}


JUDGEMENT: dict[str, Any] = {
    "verdicts": [
        {"name": "overfit", "passed": True, "sentence": "a gap of 0.1 [0.02, 0.18], 0.5 allowed"},
        {"name": "thresholds", "passed": False, "sentence": BELOW},
        {"name": "forgetting", "passed": None, "sentence": "no general probe was asked"},
    ],
    "intervals": {"heldout/teds/base": [0.05, 0.11], "heldout/teds/tuned": [0.65, 0.82]},
    "paired": {
        "heldout/teds": {
            "samples": 8,
            "difference": 0.66,
            "interval": [0.57, 0.75],
            "p_value": 0.0002,
            "significant": True,
        },
        "heldout/exact_match": {"samples": 8, "difference": 0.25, "p_value": 0.31},
    },
    "phases": {
        "split": "heldout",
        "samples": 8,
        "answered": 4,
        "primary_metric": "teds",
        "rows": [
            {"name": "base", "last_step": 0, "loss": 3.1, "value": 0.08},
            {
                "name": "small",
                "last_step": 20,
                "loss": 1.6,
                "value": 0.4,
                "loss_change": -1.5,
                "interval": [-1.8, -1.2],
                "p_value": 0.008,
            },
            {
                "name": "large",
                "last_step": 60,
                "loss": 1.7,
                "value": 0.7,
                "loss_change": 0.1,
                "interval": [-0.1, 0.3],
                "p_value": 0.4,
            },
        ],
    },
    "general": {
        "samples": 12,
        "guessing": 8.3,
        "kinds": [
            {
                "name": "arithmetic",
                "samples": 6,
                "base_loss": 1.2,
                "tuned_loss": 1.9,
                "known": True,
            },
            {"name": "poetry", "samples": 6, "base_loss": 8.1, "tuned_loss": 8.0, "known": False},
        ],
        "loss_change": 0.7,
        "interval": [0.5, 0.9],
        "p_value": 0.03,
    },
}
JUDGED: dict[str, Any] = {
    "hf-adapter_vs_hf-base.json": {
        "mode": "pairwise",
        "engines": ["hf:adapter", "hf:base"],
        "judge": {"base_url": "http://127.0.0.1:9", "model": "some-judge", "rubrics": {}},
        "cases": 12,
        "judged": 11,
        "wins": {"hf:adapter": 9, "hf:base": 1},
        "ties": 1,
        "win_rate": {"hf:adapter": estimate(0.864), "hf:base": estimate(0.136)},
        "order_decided": estimate(0.09),
        "first_wins": estimate(0.52),
        "agreement": {"agree": estimate(0.9)},
        "stopped": "the endpoint refused 3 times in a row",
    },
    "hf-adapter.json": {
        "mode": "pointwise",
        "engines": ["hf:adapter"],
        "judge": {"base_url": "http://127.0.0.1:9", "model": "some-judge", "rubrics": {}},
        "judged": 12,
        "mean_score": estimate(4.31),
        "correlation": estimate(0.72),
    },
}
REVIEWED: dict[str, Any] = {
    "sheet1.json": {
        "sheet": "sheet1",
        "engines": ["hf:adapter", "llama_cpp:q4_k_m"],
        "judged": 8,
        "raters": {"ann": {}, "bob": {}},
        "outcomes": {"hf:adapter": 3, "llama_cpp:q4_k_m": 2, "tie": 3},
        "win_rate": {"hf:adapter": estimate(0.56)},
        "agreement": [{"raters": ["ann", "bob"], "kappa": estimate(0.61)}],
        "metric": {"agree": estimate(0.75)},
        "judge": None,
    },
    "sheet1.key.json": {"sheet": "sheet1", "items": []},
}


def publish_hostile(run: Path, texts: Sequence[str]) -> None:
    """A run in which every place that takes a text from elsewhere has one of these."""
    first = texts[0]
    kinds = [{"name": text, "samples": 1, "base_loss": 1.0, "tuned_loss": 2.0} for text in texts]
    rows = [{"name": text, "last_step": 1, "loss": 1.0} for text in texts]
    publish(run, "setup", files={"model.json": json.dumps({"id": first, "revision": texts[1]})})
    publish(
        run,
        "deploy",
        files={"deploy.json": json.dumps({"model_id": first})},
        facts={"libraries": {"fastapi": first}},
        inputs={"setup": {"version": first, "files": {first: first}}},
    )
    publish_validate(
        run,
        [
            prediction("table-7", "heldout", "base", texts[0]),
            prediction("table-7", "heldout", "tuned", texts[1], prompt=texts[2]),
            prediction("table-1", "train", "tuned", texts[2], reference=TABLE),
        ],
        judgement={
            "verdicts": [{"name": text, "passed": False, "sentence": text} for text in texts],
            "phases": {"split": first, "primary_metric": first, "rows": rows},
            "general": {"kinds": kinds},
        },
        passed=False,
        reasons=texts,
    )
    for text in texts:
        name = f"openai:{text}"
        failed = {"status": "failed", "error": text, "engine_version": text}
        publish_records(
            run,
            [
                record(name, text, text, prompt=text, reference=text, split=text),
                record(name, "f", "", digests={text: text}, **failed),
            ],
        )
    (run / "judge").mkdir()
    pair = JUDGED["hf-adapter_vs_hf-base.json"]
    judged = pair | {
        "engines": list(texts[:2]),
        "wins": dict.fromkeys(texts, 1),
        "judge": {"model": first},
        "stopped": first,
    }
    (run / "judge" / "a.json").write_text(json.dumps(judged))
    (run / "predictions" / "broken.jsonl").write_text(json.dumps({"engine": first}) + "\n")
