"""The configuration: layers, values, and every fault told at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from vlmpipe.cli.app import run
from vlmpipe.config import Config, load_config
from vlmpipe.config.base import Section
from vlmpipe.config.faults import leaf_keys, section_of
from vlmpipe.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(*overrides: str, files: tuple[Path, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(files, overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def sections(model: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        inner = section_of(field.annotation)
        if inner:
            yield from sections(inner)


def test_defaults_alone_are_a_configuration() -> None:
    config = load_config()
    assert config.run.name == "default"
    assert config.train.max_steps == 100


def test_later_files_win_over_earlier_ones_and_words_over_files(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "train: {max_steps: 1, batch_size: 2, max_length: 100}\n")
    second = write(tmp_path, "b.yaml", "train: {max_steps: 3, batch_size: 4}\n")
    config = load_config((first, second), ("train.max_steps=5",))
    assert (config.train.max_steps, config.train.batch_size) == (5, 4)
    assert config.train.max_length == 100
    assert config.train.gradient_accumulation == 4


def test_maps_merge_and_lists_replace(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "convert: {quants: [q8_0, q2_k]}\ntrain: {lora: {r: 8}}\n")
    second = write(tmp_path, "b.yaml", "convert: {quants: [q4_0]}\ntrain: {lora: {alpha: 3}}\n")
    config = load_config((first, second), ('train.lora={"dropout": 0.5}',))
    assert config.convert.quants == ("q4_0",)
    assert (config.train.lora.r, config.train.lora.alpha, config.train.lora.dropout) == (8, 3, 0.5)


def test_layers_do_not_share_their_lists(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "validate: &v {thresholds: {a: 1}}\n")
    assert load_config((file,), ("validate.thresholds.b=2",)).validation.thresholds == {
        "a": 1.0,
        "b": 2.0,
    }
    assert load_config((file,)).validation.thresholds == {"a": 1.0}


def test_files_hold_yaml_1_2_scalars(tmp_path: Path) -> None:
    text = "train: {learning_rate: 3e-4}\nmodel: {system_prompt: no, revision: 2024-01-01}\n"
    config = load_config((write(tmp_path, "a.yaml", text),))
    assert config.train.learning_rate == 3e-4
    assert config.model.system_prompt == "no"
    assert config.model.revision == "2024-01-01"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("Answer: in Korean", "Answer: in Korean"),
        ("number #1", "number #1"),
        ("*emphasis", "*emphasis"),
        ("<<", "<<"),
        ('"5"', "5"),
        ("null", None),
        ("", None),
        ("a=b", "a=b"),
    ],
)
def test_a_word_gives_the_text_that_was_typed(text: str, value: str | None) -> None:
    assert load_config((), (f"model.system_prompt={text}",)).model.system_prompt == value


def test_a_word_gives_lists_and_maps_as_json() -> None:
    source = '[{"path": "a.jsonl", "task": "table", "weight": 2}]'
    config = load_config((), (f"data.sources={source}", "train.learning_rate=3e-4"))
    assert config.data.sources[0].weight == 2.0
    assert config.train.learning_rate == 3e-4
    assert load_config((), ("data.sources=[]",)).data.sources == ()


def test_quant_types_may_be_written_as_guides_write_them() -> None:
    loaded = load_config((), ('convert.quants=["Q4_K_M", "q2_k"]', "deploy.quant=Q4_K_M"))
    assert loaded.convert.quants == ("q4_k_m", "q2_k")
    assert loaded.deploy.quant == "q4_k_m"


def test_json_that_is_none_is_refused_with_the_value() -> None:
    (fault,) = faults("data.sources=[{path: a}]")
    assert "[{path: a}]" in fault
    assert "not valid JSON" in fault


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_config((), ("run.outputs_dir=~/runs",)).run.outputs_dir == Path(
        "/home/somebody/runs"
    )
    (fault,) = faults("run.outputs_dir=~no-such-user/runs")
    assert fault.startswith("run.outputs_dir: ")


def test_an_unknown_key_is_told_with_the_near_miss() -> None:
    assert faults("train.max_step=3") == ["train.max_step: unknown key; did you mean 'max_steps'?"]
    assert faults("trian.max_steps=3") == ["trian: unknown key; did you mean 'train'?"]
    assert faults("max_steps=3") == ["max_steps: unknown key; did you mean 'train.max_steps'?"]
    assert faults("validation.gate=off") == ["validation: unknown key; did you mean 'validate'?"]
    source = '[{"path": "a", "weigth": 2}]'
    (fault,) = faults(f"data.sources={source}")
    assert fault == "data.sources.0.weigth: unknown key; did you mean 'weight'?"


def test_an_unknown_key_without_a_near_miss_is_told_with_what_there_is() -> None:
    (fault,) = faults("run.zzz=1")
    assert fault == "run.zzz: unknown key; known here: name, outputs_dir, seed"


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("train.max_steps=many", ("train.max_steps:", "'many'")),
        ("train.max_steps=0", ("train.max_steps:", "greater than or equal to 1", "0")),
        ("train.lora.dropout=1", ("train.lora.dropout:", "less than 1")),
        ("train.method=magic", ("train.method:", "'qlora'", "'magic'")),
        ("train=5", ("train:", "section of keys", "5")),
        ("run.name=5", ("run.name:", "quote it", """run.name='"5"'""")),
        ("run.name=../up", ("run.name:", "'../up'")),
        ("train.curriculum.0.max_steps=4", ("train.curriculum:", "list", "JSON")),
        ("data.sources=[{}]", ("data.sources.0.path: must be given",)),
        ("validate.min_image_gain=.nan", ("validate.min_image_gain:", "finite")),
        ("validate.gate=maybe", ("validate.gate:", "'enforce'", "'maybe'")),
        ("data.synthetic.difficulty=[0.5,0.1]", ("data.synthetic:", "[0.5, 0.1]")),
        ("convert.quants=[]", ("convert.quants:", "at least one")),
        ('convert.quants=["Q4_0", "q4_0"]', ("convert.quants:", "named twice")),
        ('train.unfreeze=["all"]', ("train.unfreeze:", "'all'", "last_blocks:N")),
        ("train.max_steps", ("'train.max_steps' is not KEY=VALUE",)),
        ("=5", ("'=5' is not KEY=VALUE",)),
        ("configs/tiny.yaml", ("a configuration file is given as -c configs/tiny.yaml",)),
        ("train..r=5", ("'train..r=5' is not KEY=VALUE",)),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_itself(word: str, parts: tuple[str, ...]) -> None:
    (fault,) = faults(word)
    for part in parts:
        assert part in fault


def test_a_long_value_is_told_in_part() -> None:
    (fault,) = faults(f"train.method={'x' * 5000}")
    assert len(fault) < 300


def test_faults_of_every_kind_and_place_are_told_together(tmp_path: Path) -> None:
    unreadable = write(tmp_path, "bad.yaml", "train: [1\n")
    good = write(tmp_path, "good.yaml", "model: {dtype: int3}\nrun: {seed: -1}\n")
    found = faults("nonsense", "train.max_step=1", "train.max_length=2", files=(unreadable, good))
    keys = [fault.partition(":")[0] for fault in found]
    assert keys[0] == str(unreadable)
    assert keys[1].startswith("'nonsense'")
    assert keys[2:] == ["run.seed", "model.dtype", "train.max_length", "train.max_step"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (fault,) = faults(files=(tmp_path / "none.yaml",))
    assert str(tmp_path / "none.yaml") in fault
    assert "No such file" in fault
    (fault,) = faults(files=(tmp_path,))
    assert "Is a directory" in fault


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (fault,) = faults(files=(write(tmp_path, "a.yaml", "run:\n  name: [a\n"),))
    assert "a.yaml:3:1 is not valid YAML" in fault
    (fault,) = faults(files=(write(tmp_path, "b.yaml", "run: {seed: 1}\nrun: {seed: 2}\n"),))
    assert "b.yaml:2:1" in fault
    assert "duplicate" in fault
    binary = tmp_path / "c.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    (fault,) = faults(files=(binary,))
    assert "not UTF-8" in fault


def test_a_file_must_hold_sections(tmp_path: Path) -> None:
    (fault,) = faults(files=(write(tmp_path, "a.yaml", "- 1\n- 2\n"),))
    assert "holds a list" in fault
    (fault,) = faults(files=(write(tmp_path, "b.yaml", "train:\n"),))
    assert fault == "train: is a section of keys, got None"
    assert load_config((write(tmp_path, "c.yaml", "# nothing\n"),)) == load_config()


def test_a_configuration_is_frozen() -> None:
    config = load_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.train.max_steps = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.run = config.run


def test_rules_over_several_keys_are_held() -> None:
    (fault,) = faults("model.min_pixels=900000", "model.max_pixels=1000")
    assert fault == "model: min_pixels 900000 is above max_pixels 1000"
    phase = '{"name": "a", "max_size": [448, 448], "epochs": 1, "max_steps": 2}'
    (fault,) = faults(f"train.curriculum=[{phase}]")
    assert "sets both epochs and max_steps" in fault
    phase = '{"name": "a", "max_size": [448, 448]}'
    (fault,) = faults(f"train.curriculum=[{phase}, {phase}]")
    assert "several phases named a" in fault


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_file_is_valid_and_names_its_run(file: Path) -> None:
    assert load_config((file,)).run.name != load_config().run.name


@pytest.mark.parametrize("section", sorted({*sections()}, key=lambda s: s.__name__))
def test_every_key_and_section_is_documented(section: type[BaseModel]) -> None:
    assert issubclass(section, Section)
    assert section.__doc__
    for name, field in section.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert field.description or is_section, name


def test_show_lists_every_key_with_its_value_and_meaning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["config", "show", "train.max_steps=7"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert "train.max_steps = 7" in lines
    for key in leaf_keys(Config):
        (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert lines[place + 1].startswith("    ")
        assert len(lines[place + 1].strip()) > 10, key
    assert "train.curriculum[].max_size" in lines
    assert "data.sources[].path" in lines


def test_show_can_be_told_which_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "train.lora", "data.sources", "train.lora.r=9"]) == 0
    keys = [k.split(" = ")[0] for k in capsys.readouterr().out.splitlines() if k[0] != " "]
    assert keys[0] == "data.sources"
    assert keys[-1] == "train.lora.plus_ratio"
    assert len(keys) == 12
    assert run(["config", "show", "lora"]) == 2
    assert "no section or key is named lora" in capsys.readouterr().err


def test_show_tells_lists_of_sections_from_optional_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["config", "show", "data.sources", "validate.judge"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "data.sources[].path" in lines
    assert "validate.judge.base_url" in lines


def test_show_as_json_can_be_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--json", "train.lora.r=9"]) == 0
    again = write(tmp_path, "again.yaml", capsys.readouterr().out)
    assert load_config((again,)) == load_config((), ("train.lora.r=9",))


def test_check_reports_all_faults_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "train.max_step=1", "run.seed=-1", "oops"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    for part in ("3 faults", "train.max_step: unknown key", "run.seed: ", "'oops' is not"):
        assert part in told.err
    assert run(["config", "check", "--json", "train.max_step=1", "run.seed=-1"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 2
    assert len(error["problems"]) == 2
    assert run(["config", "check"]) == 0
