"""`vlmpipe gguf show`: origin, contract, seal and llama-server's line, from the file alone."""

from __future__ import annotations

import json
import shlex
import struct
from pathlib import Path

import pytest

from model_folders import contract_of
from test_cli import vlmpipe_process
from vlmpipe.cli import app
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.export.gguf.metadata import Lineage, carried_keys, seal
from vlmpipe.models.families import FAMILIES

LINEAGE = Lineage("demo", "ab" * 32, "Qwen/x@1", "cd" * 32, "1.2.3")
CONTRACT = contract_of(FAMILIES["qwen2_5_vl"], system_prompt="Read [it].")


def written(
    path: Path,
    architecture: str = "qwen2vl",
    lineage: Lineage | None = LINEAGE,
    contract: PreprocessContract | None = CONTRACT,
) -> Path:
    """A sealed file of the keys that the converter writes, followed by some weights."""
    keys = {"general.architecture": architecture, **carried_keys(lineage, contract)}
    packed = b"".join(text(key) + struct.pack("<I", 8) + text(keys[key]) for key in keys)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + packed + b"weights" * 99)
    seal(path)
    return path


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert app.run(["gguf", "show", str(path)]) == 0
    return capsys.readouterr().out


def as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    code = app.run(["gguf", "show", str(path), "--json"])
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    error = found.get("error")
    assert code == (error["exit_code"] if isinstance(error, dict) else 0)
    return found


def test_a_copied_file_tells_where_it_comes_from_and_what_it_was_trained_on(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = shown(written(Path("a.gguf")), capsys)
    assert "demo, by vlmpipe 1.2.3" in printed
    assert "Qwen/x@1" in printed
    assert "ab" * 32 in printed
    assert "cd" * 32 in printed
    assert f"qwen2_5_vl, sha256 {CONTRACT.digest}" in printed
    assert "8 to 256 tokens of 28x28 pixels, bicubic" in printed
    assert "'Read [it].'" in printed
    assert "whole: its sha256 is the one that it states" in printed


def test_json_holds_the_whole_contract(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(written(Path("a.gguf")), capsys)
    assert PreprocessContract.model_validate(found["contract"]) == CONTRACT
    assert found["lineage"] == vars(LINEAGE)
    assert found["sealed"] is True


@pytest.mark.parametrize(
    ("architecture", "files"),
    [("qwen2vl", ["my a.gguf", "MMPROJ.gguf"]), ("clip", ["TEXT.gguf", "my a.gguf"])],
)
def test_llama_servers_line_names_the_file_in_its_place(
    architecture: str, files: list[str], at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(written(Path("my a.gguf"), architecture), capsys)
    assert shlex.split(str(found["llama_server"])) == [
        *("llama-server", "-m", files[0], "--mmproj", files[1], "-c", "1024", "--jinja"),
        *("--image-min-tokens", "8", "--image-max-tokens", "256"),
    ]


def test_a_text_models_line_has_no_images(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = contract_of(FAMILIES["qwen3"])
    printed = shown(written(Path("a.gguf"), "qwen3", contract=contract), capsys)
    assert "none: a text-only model" in printed
    assert f"llama-server -m a.gguf -c {contract.context_length} --jinja\n" in printed


def test_a_changed_file_is_shown_and_refused(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(Path("a.gguf"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert app.run(["gguf", "show", "a.gguf"]) == 4
    told = capsys.readouterr()
    assert "demo, by vlmpipe 1.2.3" in told.out
    assert "whole" not in told.out
    assert "the file itself states" in told.err
    error = as_json(path, capsys)["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "ArtifactError"


def test_a_file_of_another_maker_is_said_to_tell_nothing(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.gguf").write_bytes(b"GGUF" + bytes(64))
    printed = shown(Path("a.gguf"), capsys)
    assert "the file carries no lineage" in printed
    assert "the file carries no preprocess contract" in printed
    assert "none: nothing tells whether the file changed" in printed


@pytest.mark.parametrize("content", [None, b"", b"GG", b"PK\x03\x04" + bytes(99)])
def test_what_is_no_gguf_file_is_refused(
    content: bytes | None, at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("a.gguf").write_bytes(content)
    error = as_json(Path("a.gguf"), capsys)["error"]
    assert isinstance(error, dict)
    said = "is not a GGUF file" if content is not None else "No such file"
    assert error["exit_code"] == 4
    assert said in error["message"]


def test_a_key_that_points_beyond_the_file_is_no_crash(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = written(Path("a.gguf")).read_bytes()
    for length in (content.index(b"vlmpipe.preprocess_contract") + 35, 60, 30):
        Path("a.gguf").write_bytes(content[:length])
        assert app.run(["gguf", "show", "a.gguf"]) in (0, 4)


def test_looking_into_a_file_imports_nothing_heavy(at: Path) -> None:
    written(Path("a.gguf"))
    done = vlmpipe_process("gguf", "show", "a.gguf", cwd=at)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].strip() == "imported:"
