"""Two runs held against each other."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from evaluation_fakes import ColourEngine, colour_sample, system_of
from report_fakes import publish
from vlmpipe.cli import app
from vlmpipe.config import parse_config
from vlmpipe.data.prepare import prepare_data
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.answers import answer_samples, measured_here
from vlmpipe.evaluation.run_difference import RunDifference, compare_runs, find_run
from vlmpipe.evaluation.run_difference.values import flat
from vlmpipe.pipeline.events import SilentReporter

COLOURS = {f"#0000{n:02x}": name for n, name in enumerate("abcdefgh")}
WEIGHTS = "as they were trained"
LIBRARIES = {"libraries": {"torch": "2.13.0", "peft": "0.21.2"}, "device": {"gpus": []}}


def samples(count: int = 8) -> list[Any]:
    return [colour_sample(name, colour, name) for colour, name in list(COLOURS.items())[:count]]


def lines(
    answers: dict[str, str],
    engine: str = "hf:adapter",
    asked: Any = None,
    weights: str = WEIGHTS,
) -> str:
    digests = {"adapter/adapter_model.safetensors": sha256(weights.encode()).hexdigest()}
    given = answer_samples(
        ColourEngine(engine, answers),
        system_of(engine).model_copy(update={"digests": digests}),
        samples() if asked is None else asked,
        split="heldout",
        measure=measured_here,
    )
    return "".join(record.as_line() for record in given)


def run_of(
    folder: Path,
    predictions: str = "",
    settings: dict[str, Any] | None = None,
    seed: int = 42,
    **manifest: Any,
) -> Path:
    """A run with prepared data, a training and a validation."""
    config = parse_config(
        {
            "run": {"seed": seed},
            "data": {"task": "qa", "synthetic": {"n": 12}, "heldout_fraction": 0.25},
        }
    )
    data = folder.with_name(f"{folder.name}-data")
    prepare_data(config, data, SilentReporter())
    files = {f"data/{path.name}": path.read_bytes() for path in data.glob("*.parquet")}
    publish(folder, "setup", files={**files, "model.json": json.dumps({"id": "embedded:tiny"})})
    facts = manifest.pop("facts", LIBRARIES)
    trained = {"adapter/adapter_model.safetensors": WEIGHTS}
    settings = settings or {"train.max_steps": 10}
    publish(folder, "train", files=trained, settings=settings, facts=facts)
    validated = {"predictions.jsonl": predictions}
    publish(folder, "validate", files=validated, metrics=manifest, facts=facts)
    return folder


def difference(first: Path, second: Path) -> RunDifference:
    return compare_runs(find_run(str(first), first.parent), find_run(str(second), first.parent))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Half the colours known, then six of eight; other settings, libraries and split."""
    half = dict(list(COLOURS.items())[:4])
    most = dict(list(COLOURS.items())[:6])
    curriculum = [{"name": "small", "max_size": [112, 112]}]
    first = run_of(
        tmp_path / "first",
        lines(half),
        {"train.max_steps": 10, "train.curriculum": curriculum, "train.lora.r": 8},
        **{"heldout/exact_match/tuned": 0.5, "heldout/cut/tuned": 0.0},
    )
    wider = [{"name": "small", "max_size": [168, 112]}]
    second = run_of(
        tmp_path / "second",
        lines(most),
        {"train.max_steps": 20, "train.curriculum": wider, "train.lora.r": 8},
        seed=43,
        facts={"libraries": {"torch": "2.14.0", "peft": "0.21.2"}, "device": {"gpus": ["H200"]}},
        **{"heldout/exact_match/tuned": 0.75, "heldout/cut/tuned": 0.0},
    )
    return first, second


def test_settings_that_changed_are_named_by_their_keys_with_both_values(pair):
    found = difference(*pair)
    assert [(c.name, c.first, c.second) for c in found.settings] == [
        ("train.max_steps", 10, 20),
        ("train.curriculum[0].max_size", [112, 112], [168, 112]),
    ]


def test_libraries_and_devices_are_told_once_with_their_stages(pair):
    found = {c.name: c for c in difference(*pair).surroundings}
    assert (found["libraries.torch"].first, found["libraries.torch"].second) == ("2.13.0", "2.14.0")
    assert found["libraries.torch"].stages == ("train", "validate")
    assert "libraries.peft" not in found
    assert found["device.gpus"].second == ["H200"]


def test_samples_that_came_and_went_are_named_and_those_that_changed_sides(pair):
    data = difference(*pair).data
    heldout = data.splits[1]
    assert heldout.samples == (3, 3)
    assert not heldout.same
    assert len(heldout.added) == len(heldout.removed) > 0
    assert set(heldout.added) <= set(data.moved)
    assert f"{3 - len(heldout.added)} ids in both" in heldout.sentence


def test_metrics_stand_side_by_side_with_their_difference(pair):
    [_, _, validate] = difference(*pair).metrics
    changes = {change.name: change for change in validate.metrics}
    assert changes["heldout/exact_match/tuned"].difference == 0.25
    assert changes["heldout/cut/tuned"].same


def test_answers_to_the_same_samples_are_paired(pair):
    [answers] = difference(*pair).answers.answers
    assert (answers.engine, answers.split, answers.both) == ("hf:adapter", "heldout", 8)
    assert answers.same_answers == 6
    assert not answers.sets_differ
    change = answers.metrics["exact_match"]
    assert change.difference == 0.25
    assert change.p_value == pytest.approx(0.5), "2 of 8 differ: half of all lots go as far"
    assert answers.metrics["loss"].difference == pytest.approx(-0.5)


def test_sets_that_differ_are_said_to(tmp_path):
    asked = samples(6)
    changed = colour_sample("c", "#ffffff", "c")
    first = run_of(tmp_path / "first", lines(COLOURS, asked=asked))
    second = run_of(tmp_path / "second", lines(COLOURS, asked=[*samples(8)[3:], changed]))
    [answers] = difference(first, second).answers.answers
    assert (answers.both, answers.changed) == (3, 1)
    assert (answers.only_first, answers.only_second) == (2, 2)
    assert answers.sentence == (
        "the sets differ: 3 samples in both, 2 only in the first, 2 only in the second,"
        " 1 changed under the same id"
    )


def test_records_of_evaluate_are_compared_engine_by_engine(tmp_path):
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second")
    for run, engines in ((first, ("hf:base", "llama_cpp:q8_0")), (second, ("llama_cpp:q8_0",))):
        (run / "predictions").mkdir()
        for engine in engines:
            name = engine.replace(":", "-")
            (run / "predictions" / f"{name}.jsonl").write_text(lines(COLOURS, engine))
    found = difference(first, second).answers
    assert [(a.source, a.engine, a.both) for a in found.answers] == [
        ("evaluate", "llama_cpp:q8_0", 8)
    ]
    assert "evaluate: only the first run has answers of hf:base" in found.notes


def test_an_adapter_is_held_against_a_full_training(tmp_path):
    first = run_of(tmp_path / "first", lines(COLOURS))
    second = run_of(tmp_path / "second", lines(COLOURS, "hf:full"))
    [answers] = difference(first, second).answers.answers
    assert answers.engine == "hf:adapter against hf:full"


def test_predictions_that_are_no_records_are_left_out_and_named(tmp_path):
    first = run_of(tmp_path / "first", '{"model": "tuned"}\n')
    second = run_of(tmp_path / "second", lines(COLOURS))
    found = difference(first, second).answers
    assert found.answers == ()
    assert "predictions.jsonl:1 is no result record" in found.notes[0]
    assert found.notes[0].endswith("`vlmpipe run-all --force validate` with the same options")


def test_a_damaged_file_of_one_engine_leaves_the_others_and_says_what_to_do(tmp_path):
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second")
    for run in (first, second):
        (run / "predictions").mkdir()
        (run / "predictions" / "hf-adapter.jsonl").write_text(lines(COLOURS))
    damaged = first / "predictions" / "hf-base.jsonl"
    damaged.write_text('{"model": "base"}\n')
    found = difference(first, second).answers
    assert [each.engine for each in found.answers] == ["hf:adapter"]
    [note] = found.notes
    assert f"remove {damaged} and evaluate again" in note


def test_what_one_run_alone_has_is_named_in_the_same_order_each_time(tmp_path):
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second")
    engines = [f"llama_cpp:q{number}" for number in range(8)]
    (first / "predictions").mkdir()
    for engine in engines:
        name = engine.replace(":", "-")
        (first / "predictions" / f"{name}.jsonl").write_text(lines(COLOURS, engine, samples(1)))
    notes = difference(first, second).answers.notes
    assert notes == tuple(f"evaluate: only the first run has answers of {e}" for e in engines)


def test_answers_of_the_method_before_are_not_mixed_with_those_of_this_one(tmp_path):
    """A run whose method was changed has the files of both."""
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second")
    for run in (first, second):
        (run / "predictions").mkdir()
    wrong = dict.fromkeys(COLOURS, "wrong")
    old = lines(wrong, "hf:full", weights="as they were before")
    (first / "predictions" / "hf-full.jsonl").write_text(old)
    for run in (first, second):
        (run / "predictions" / "hf-adapter.jsonl").write_text(lines(COLOURS))
    found = difference(first, second).answers
    [answers] = found.answers
    assert (answers.engine, answers.both, answers.same_answers) == ("hf:adapter", 8, 8)
    [note] = found.notes
    assert note.startswith("evaluate: answers of hf:full in the first run that are left out")
    assert "published last: 8; evaluate again" in note


def test_both_methods_of_one_run_stay_apart_where_both_are_published(tmp_path):
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second")
    for run in (first, second):
        (run / "predictions").mkdir()
        for engine in ("hf:adapter", "hf:full"):
            name = engine.replace(":", "-")
            (run / "predictions" / f"{name}.jsonl").write_text(lines(COLOURS, engine))
    found = difference(first, second).answers
    assert [(each.engine, each.both) for each in found.answers] == [
        ("hf:adapter", 8),
        ("hf:full", 8),
    ]


def test_answers_of_weights_that_were_trained_anew_are_not_compared(tmp_path):
    first, second = run_of(tmp_path / "first", lines(COLOURS)), run_of(tmp_path / "second")
    publish(first, "train", files={"adapter/adapter_model.safetensors": "anew"}, version="v002")
    found = difference(first, second).answers
    assert found.answers == ()
    assert any(
        note.startswith("validate: answers of hf:adapter in the first run that are left out")
        and "--force validate" in note
        for note in found.notes
    )


def test_answers_of_a_server_that_names_no_weights_are_compared(tmp_path):
    first, second = run_of(tmp_path / "first"), run_of(tmp_path / "second")
    engine = "openai:http://127.0.0.1:9/v1"
    given = answer_samples(
        ColourEngine(engine, COLOURS),
        system_of(engine).model_copy(update={"digests": {}}),
        samples(),
        split="heldout",
        measure=measured_here,
    )
    text = "".join(record.as_line() for record in given)
    for run in (first, second):
        (run / "predictions").mkdir()
        (run / "predictions" / "server.jsonl").write_text(text)
    assert [each.both for each in difference(first, second).answers.answers] == [8]


def test_a_run_whose_stages_depart_from_each_other_is_told(tmp_path):
    first, second = run_of(tmp_path / "first", lines(COLOURS)), run_of(tmp_path / "second")
    inputs = {"train": {"version": "v000"}}
    publish(first, "merge", inputs=inputs)
    notes = difference(first, second).answers.notes
    assert notes[0] == "the first run: merge v001 was made from train v000, latest is v001"


def test_a_run_against_itself_differs_in_nothing(pair):
    found = difference(pair[0], pair[0])
    assert found.settings == found.surroundings == ()
    assert all(split.same for split in found.data.splits)
    assert all(change.same for stage in found.metrics for change in stage.metrics)
    assert found.answers.answers[0].same_answers == 8


def test_stages_that_only_one_has_are_named(pair):
    publish(pair[0], "merge")
    found = difference(*pair)
    assert found.only_first == ("merge",)
    assert [stage.stage for stage in found.metrics] == ["setup", "train", "validate"]


def test_a_run_that_is_not_there_is_told_with_near_names(pair):
    outputs = pair[0].parent
    with pytest.raises(ConfigError, match="there is no run 'frist'; did you mean first"):
        find_run("frist", outputs)
    (outputs / "empty").mkdir()
    with pytest.raises(ConfigError, match="no stage is published"):
        find_run("empty", outputs)
    assert find_run(str(pair[1]), Path("nowhere")).name == "second"


def test_lists_of_maps_are_keys_and_other_lists_are_values():
    tree = {"a": {"b": [1, 2]}, "c": [{"d": 1}, {"d": []}], "e": []}
    assert flat(tree) == {"a.b": [1, 2], "c[0].d": 1, "c[1].d": [], "e": []}


def test_command_prints_every_part(pair, capsys):
    outputs = str(pair[0].parent)
    assert app.run(["compare", "first", "second", "--outputs-dir", outputs]) == 0
    shown = capsys.readouterr().out
    for text in (
        "train.max_steps",
        "libraries.torch",
        "data, heldout:",
        "heldout/exact_match/tuned",
        "the same 8 samples",
        "and 2 that are equal",
        "+0.25",
    ):
        assert text in shown


def test_command_says_when_the_samples_differ_and_when_nothing_does(tmp_path, capsys):
    first = run_of(tmp_path / "first", lines(COLOURS))
    second = run_of(tmp_path / "second", lines(COLOURS, asked=samples(5)))
    assert app.run(["compare", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert "validate's means are over different samples" in shown
    assert "the sets differ: 5 samples in both, 3 only in the first" in shown
    assert app.run(["compare", str(first), str(first)]) == 0
    shown = capsys.readouterr().out
    assert "settings: the same" in shown
    assert "metrics are equal on every sample" in shown
    assert "sets differ" not in shown


def test_command_gives_one_json_object_and_its_errors_too(pair, capsys):
    outputs = str(pair[0].parent)
    assert app.run(["compare", "first", "second", "--outputs-dir", outputs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"][0]["name"] == "train.max_steps"
    [answers] = found["answers"]["answers"]
    assert answers["metrics"]["exact_match"]["significant"] is False
    rows = {row["name"]: row for row in found["metrics"][2]["metrics"]}
    assert rows["heldout/exact_match/tuned"]["difference"] == 0.25
    assert app.run(["compare", "first", "nobody", "--outputs-dir", outputs, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "ConfigError"
