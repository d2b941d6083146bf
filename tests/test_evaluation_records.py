"""Result records: their published schema, their names of files, broken files."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.records import (
    Record,
    Sampling,
    System,
    file_name,
    read_records,
    record_schema,
)

SCHEMA = Path(__file__).parent.parent / "docs" / "record.schema.json"
SYSTEM = {
    "engine": "llama_cpp:q4_k_m",
    "model_name": "m",
    "engine_type": "llama_cpp",
    "engine_version": "1",
    "lora_enabled": False,
    "merge_state": "merged",
    "quantization": "q4_k_m",
    "digests": {"m.gguf": "0" * 64},
    "sampling": Sampling(max_new_tokens=5),
    "seed": 1,
    "preprocess_contract": "1" * 64,
}
SAMPLE = {
    "sample": "s",
    "split": "heldout",
    "inputs": "2" * 64,
    "task": "qa",
    "prompt": "q",
    "reference": "r",
    "status": "answered",
}


def record(**more) -> Record:
    return Record(**(SYSTEM | SAMPLE | more))


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == record_schema()
    jsonschema.Draft202012Validator.check_schema(record_schema())


def test_a_record_fits_the_schema_and_comes_back_as_it_was(tmp_path):
    written = record(prediction="a\nb \u2028 한국", metrics={"cer": 0.5}, loss=1.5)
    jsonschema.validate(json.loads(written.as_line()), record_schema())
    path = tmp_path / "r.jsonl"
    path.write_text(written.as_line() * 2, encoding="utf-8")
    assert list(read_records(path)) == [written, written]


@pytest.mark.parametrize("spoiled", [{"status": "maybe"}, {"extra": 1}, {"engine_type": "gpt"}])
def test_the_schema_refuses_what_is_no_record(spoiled):
    row = json.loads(record().as_line()) | spoiled
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(row, record_schema())


def test_what_is_no_number_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        record(metrics={"teds": float("nan")}).as_line()


def test_the_system_is_told_by_its_digest():
    assert record().system == System(**SYSTEM)
    assert record(prediction="x").system.digest == System(**SYSTEM).digest
    assert record(seed=2).system.digest != System(**SYSTEM).digest


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(record().as_line() + "{}\n" + record().as_line())
    with pytest.raises(ArtifactError, match=r"r\.jsonl:2"):
        list(read_records(path))


def test_a_last_line_cut_off_is_left_out(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(record().as_line() + record().as_line()[:30])
    assert list(read_records(path)) == [record()]


def test_names_of_files_are_plain_and_apart():
    names = [
        file_name(each)
        for each in ("hf:a", "llama_cpp:q4_k_m", "openai:http://h:1/v1", "openai:http://h/1/v1")
    ]
    assert names[:2] == ["hf-a.jsonl", "llama_cpp-q4_k_m.jsonl"]
    assert len(set(names)) == len(names)
    assert all("/" not in name and ":" not in name for name in names)


def test_a_long_address_makes_no_long_name():
    names = {file_name(f"openai:http://host/{'a' * 500}{end}/v1") for end in ("b", "c")}
    assert len(names) == 2
    assert all(len(name) < 150 for name in names)
