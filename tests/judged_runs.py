"""A run with records of two engines, as `vlmpipe evaluate` writes them, on generated samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vlmpipe.config import Config, load_config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.evaluation.answers import prompt_text
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, Record, Sampling, file_name
from vlmpipe.evaluation.sources import inputs_digest, open_source
from vlmpipe.tasks import task_named, task_of

ENGINES = ("hf:base", "hf:adapter")


def judged_run(
    folder: Path, count: int = 3, task: str = "table", failing: Sequence[str] = ()
) -> tuple[list[str], Path]:
    """The words that name the run, and its data file.

    The first engine changes the reference's figures, the second gives it back, but for the last
    sample, where both give it back. `failing` are ids that the first engine failed on.
    """
    data = _write_data(folder / "data", task, count)
    words = [f"run.outputs_dir={folder / 'outputs'}", "run.name=demo", f"data.task={task}"]
    config = load_config((), words)
    source = open_source(config, str(data), None, None)
    for engine in ENGINES:
        _write_records(config, engine, source.name, list(source), failing)
    return words, data


def _write_data(folder: Path, task: str, count: int) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        sample = task_named(task).generate(index, 7, (0.2, 0.4), ("en",))
        sample.images[0].save(folder / f"{index}.png")
        content = [
            {"type": "image", "image": f"{index}.png"},
            {"type": "text", "text": sample.messages[0].text},
        ]
        turns = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": sample.reference},
        ]
        lines.append(json.dumps({"id": f"s{index}", "task": task, "messages": turns}))
    path = folder / "samples.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _write_records(
    config: Config, engine: str, split: str, samples: Sequence[Sample], failing: Sequence[str]
) -> None:
    path = config.run.outputs_dir / config.run.name / PREDICTIONS_FOLDER / file_name(engine)
    path.parent.mkdir(parents=True, exist_ok=True)
    last = samples[-1].id
    with path.open("w") as stream:
        for sample in samples:
            worse = engine == ENGINES[0] and sample.id != last
            text = sample.reference.translate(str.maketrans("123", "789"))
            failed = engine == ENGINES[0] and sample.id in failing
            answer = "" if failed else text if worse else sample.reference
            stream.write(_record(engine, split, sample, answer, failed=failed).as_line())


def _record(engine: str, split: str, sample: Sample, answer: str, *, failed: bool) -> Record:
    return Record(
        engine=engine,
        model_name="m",
        engine_type="hf",
        engine_version="1",
        lora_enabled=engine.endswith("adapter"),
        merge_state="adapter" if engine.endswith("adapter") else "base",
        quantization=None,
        digests={},
        sampling=Sampling(max_new_tokens=64),
        seed=1,
        preprocess_contract="",
        sample=sample.id,
        split=split,
        inputs=inputs_digest(sample),
        task=sample.task,
        prompt=prompt_text(sample.prompt),
        reference=sample.reference,
        status="failed" if failed else "answered",
        prediction=answer,
        metrics={} if failed else dict(task_of(sample.task).measure(answer, sample.reference)),
    )
