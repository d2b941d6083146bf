"""`vlmpipe prepare-image`: exact grid images for runtimes that resize by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from model_folders import contract_of, picture
from test_cli import UNTORCHED
from vlmpipe.cli import app
from vlmpipe.encoding.contract import CONTRACT_NAME, PreprocessContract
from vlmpipe.models.families import FAMILIES


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a contract and a picture of odd size in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    contract().write(tmp_path / "bundle")
    picture(151, 97).save("page.png")
    return tmp_path


def contract(**changes: object) -> PreprocessContract:
    return contract_of(FAMILIES["qwen2_5_vl"], **changes)


def prepare(*words: str, source: str = "bundle") -> int:
    return app.run(["prepare-image", *words, "--contract", source])


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    code = prepare(*words, "--json")
    error: dict[str, object] = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == code
    return error


def test_the_written_image_is_what_training_would_have_seen(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("page.png", "out.png") == 0
    expected = contract().grid.prepare(picture(151, 97))
    assert Image.open("out.png").convert("RGB").tobytes() == expected.tobytes()
    printed = capsys.readouterr().out
    tokens = contract().grid.tokens(97, 151)
    assert f"97x151 -> {expected.height}x{expected.width}" in printed
    assert f"{tokens} image tokens" in printed


def test_an_image_on_its_grid_is_said_to_be_there_already(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("page.png", "once.png")
    prepare("once.png", "twice.png")
    assert "is on its grid already" in capsys.readouterr().out
    assert Image.open("once.png").tobytes() == Image.open("twice.png").tobytes()


def test_several_images_go_into_one_folder(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(40, 30).save("small.jpg")
    capsys.readouterr()
    assert prepare("page.png", "small.jpg", "--out-dir", "made/here", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["images"]
    assert [row["target"] for row in rows] == ["made/here/page.png", "made/here/small.png"]
    assert rows[1]["size_before"] == [30, 40]
    for row in rows:
        made = Image.open(row["target"])
        assert [made.height, made.width] == row["size"]
        assert row["image_tokens"] == made.height * made.width // 28**2 >= 8


def test_stdout_takes_the_png_and_nothing_else(at: Path) -> None:
    argv = [sys.executable, "-m", "vlmpipe", "prepare-image", "page.png", "-", "--contract"]
    done = subprocess.run([*argv, "bundle"], capture_output=True, check=True)
    assert Image.open(BytesIO(done.stdout)).size == contract().grid.prepare(picture(151, 97)).size
    assert b"image tokens" in done.stderr


def test_preparing_an_image_imports_no_heavy_library(at: Path) -> None:
    argv = [sys.executable, "-c", UNTORCHED, "prepare-image", "page.png", "x.png"]
    done = subprocess.run(
        [*argv, "--contract", "bundle"], capture_output=True, text=True, env={**os.environ}
    )
    assert done.stderr.strip().endswith("imported:")
    assert (at / "x.png").is_file()


@pytest.mark.parametrize(
    "place",
    [
        f"bundle/{CONTRACT_NAME}",
        "run",
        "run/2_train",
        "run/2_train/v001",
        "run/6_deploy",
        "run/6_deploy/v003",
    ],
)
def test_the_contract_is_found_in_runs_stages_and_bundles(at: Path, place: str) -> None:
    for folder, version, inner in (("2_train", "v001", ""), ("6_deploy", "v003", "bundle")):
        target = at / "run" / folder / version / inner
        target.mkdir(parents=True)
        contract().write(target)
        (at / "run" / folder / "latest").symlink_to(version)
    assert prepare("page.png", "x.png", source=place) == 0


def test_a_run_whose_stages_disagree_is_refused_with_both_digests(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = []
    for folder, pixels in (("2_train", 448 * 448), ("5_convert", 224 * 224)):
        target = at / "run" / folder / "latest"
        target.mkdir(parents=True)
        made = contract(max_pixels=pixels)
        made.write(target)
        digests.append(made.digest[:12])
    assert prepare("page.png", "x.png", source="run") == 4
    said = capsys.readouterr().err
    assert all(digest in said for digest in digests)
    assert "--contract STAGE_FOLDER" in said


@pytest.mark.parametrize("source", ["nowhere", "empty"])
def test_a_missing_contract_is_an_artifact_error(
    at: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert prepare("page.png", "x.png", source=source) == 4
    assert "--contract" in capsys.readouterr().err
    assert not Path("x.png").exists()


def test_unusable_images_are_listed_and_the_others_are_prepared(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no image")
    Image.new("RGB", (805, 4)).save("thin.png")
    error = error_of(["page.png", "text.png", "thin.png", "gone.png", "--out-dir", "o"], capsys)
    problems = " ".join(map(str, error["problems"]))  # type: ignore[call-overload]
    assert error["message"] == "3 of 4 images cannot be prepared"
    assert "text.png: not an image" in problems
    assert "thin.png: 805x4 pixels: aspect ratio above 200" in problems
    assert "gone.png: missing" in problems
    assert sorted(path.name for path in Path("o").iterdir()) == ["page.png"]


def test_an_image_beyond_the_limit_is_refused_with_the_option(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(["page.png", "x.png", "--max-pixels", "100"], capsys)
    assert "above --max-pixels 100" in str(error["problems"])


def test_what_is_there_is_replaced_only_when_told(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.png").write_text("mine")
    assert prepare("page.png", "x.png") == 2
    assert Path("x.png").read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert prepare("page.png", "x.png", "--force") == 0
    assert Image.open("x.png").format == "PNG"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["page.png"], "one image and one OUT are expected, 1 paths"),
        (["page.png", "b.png", "c.png"], "3 paths"),
        (["page.png", "sub/page.jpg", "--out-dir", "o"], "several images would become o/page.png"),
        (["page.png", "-"], "exclude each other"),
    ],
)
def test_words_that_fit_no_use_are_refused(
    at: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(words, capsys)
    assert error["exit_code"] == 2
    assert said in str(error["message"])


def test_a_text_only_contract_takes_no_images(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract_of(FAMILIES["qwen3"]).write(at)
    assert prepare("page.png", "x.png", source=CONTRACT_NAME) == 2
    assert "text-only" in capsys.readouterr().err
