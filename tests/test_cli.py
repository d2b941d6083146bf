"""The program: help, JSON, exit codes, interrupts, what it must not import."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vlmpipe
from pipeline_fakes import MAKE, Reporter, failing
from vlmpipe.cli import app, execute
from vlmpipe.cli.execute import resuming_command
from vlmpipe.config import load_config
from vlmpipe.pipeline import Outcome, Runner, RunOptions, RunStore, Stage, StageContext, Verdict
from vlmpipe.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "configs" / "tiny.yaml"
ROAD = ["check", "setup", "train", "validate", "merge", "convert", "deploy"]
RUN_COMMANDS = ["run-all", *ROAD]
OTHER_COMMANDS = [
    "evaluate",
    "judge",
    "report",
    "serve",
    "status",
    "compare",
    "prepare-image",
    "audit",
    "lab",
    "review",
    "gguf",
    "data",
    "config",
]
UNTORCHED = """
import sys
sys.argv = ["vlmpipe", *sys.argv[1:]]
from vlmpipe.cli.app import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "datasets", "peft", "trl", "llama_cpp", "matplotlib"}
    print("imported:", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def vlmpipe_process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The program in a process that says on stderr which heavy libraries it imported."""
    argv = [sys.executable, "-c", UNTORCHED, *words]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish_all(outputs: Path, words: Sequence[str] = (), **made: Any) -> None:
    """Every stage of the real road published with a file of no meaning."""

    def pretend(context: StageContext) -> Outcome:
        (context.folder / "artifacts.json").write_text("{}")
        return Outcome(summary=("pretended",), **made)

    config = load_config((TINY,), [*words, f"run.outputs_dir={outputs}"])
    stages = [replace(stage, run=pretend) for stage in STAGES]
    store = RunStore(outputs, config.run.name)
    Runner(stages, config, store, Reporter(), RunOptions()).run()


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vlmpipe", *words])
    return app.run(words)


def with_stages(monkeypatch: pytest.MonkeyPatch, *stages: Stage) -> None:
    """The program over other stages, whose settings are those of `run`."""
    settings = {"reads": ("run.seed",), "ignores": ()}
    chosen = [replace(stage, **settings) for stage in stages]
    monkeypatch.setattr(execute, "STAGES", chosen)
    monkeypatch.setattr("vlmpipe.stages.STAGES", chosen)


def small(text: str = "a", verdict: Verdict | None = None) -> Stage:
    """A stage that prints where it should not, and writes one file."""

    def work(context: StageContext) -> Outcome:
        sys.stdout.write("a library talks\n")
        os.write(1, b"and C code talks\n")
        context.reporter.progress("working", 1, 2, loss="[0.1]")
        (context.folder / "data.txt").write_text(text)
        return Outcome(summary=("made [it]",), verdict=verdict)

    return Stage(name="train", number=2, version=1, run=work)


def one_object(text: str) -> dict[str, Any]:
    """stdout holds one JSON object and nothing else."""
    found = json.loads(text)
    assert isinstance(found, dict)
    assert len(text.strip().splitlines()) == 1
    return found


def test_help_lists_the_commands_in_the_order_of_the_road(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.run(["--help"]) == 0
    shown = re.findall(r"^│ ([a-z][a-z-]+)  ", capsys.readouterr().out, flags=re.MULTILINE)
    assert shown == ["run-all", *ROAD, *OTHER_COMMANDS]
    assert [stage.name for stage in STAGES] == ROAD
    assert [stage.number for stage in STAGES] == list(range(7))


def test_no_words_at_all_are_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 0
    assert "vlmpipe run-all -c configs/tiny.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("command", [*RUN_COMMANDS, *OTHER_COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([command, "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"vlmpipe {vlmpipe.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [[c] for c in [*RUN_COMMANDS, "serve", "status"]] + [["config", "show"], ["config", "check"]],
    ids=" ".join,
)
def test_json_is_one_object_on_errors_of_every_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*command, "--json", "train.max_step=1", "-c", "none.yaml"]) == 2
    error = one_object(capsys.readouterr().out)["error"]
    assert (error["kind"], error["exit_code"], error["stage"]) == ("ConfigError", 2, None)
    assert len(error["problems"]) == 2
    assert app.run([*command, "--json", "--no-such-option"]) == 2
    told = capsys.readouterr()
    assert "--no-such-option" in one_object(told.out)["error"]["message"]
    assert told.err == ""


def test_an_unknown_command_is_told_in_words_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["trian"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "trian" in told.err
    assert "`vlmpipe --help`" in told.err


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_a_dry_run_as_json_is_one_object_and_writes_nothing(
    at: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    publish_all(at / "outputs")
    words = [command, "-c", str(TINY), "--dry-run", "--json", "run.seed=7"]
    assert call(monkeypatch, *words) == 0
    plan = one_object(capsys.readouterr().out)
    assert [row["stage"] for row in plan["stages"]] == (ROAD if command == "run-all" else [command])
    setup = [row for row in plan["stages"] if row["stage"] == "setup"]
    assert all(row["why"] == ["run.seed"] for row in setup)
    assert not list(at.rglob("v002"))


def test_json_of_a_run_is_one_object_whatever_libraries_print(
    at: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_stages(monkeypatch, small(verdict=Verdict(False, ("too low",))))
    assert call(monkeypatch, "run-all", "--json") == 0
    told = capfd.readouterr()
    found = one_object(told.out)
    assert found["run"] == "default"
    assert found["report"] == "outputs/default/report.html"
    (row,) = found["stages"]
    assert set(row) == {"stage", "number", "version", "cached", "seconds", "summary", "verdict"}
    assert row["verdict"] == {"passed": False, "mode": "report", "reasons": ["too low"]}
    assert "a library talks" in told.err
    assert "and C code talks" in told.err
    assert call(monkeypatch, "run-all", "--json") == 0
    assert one_object(capfd.readouterr().out)["stages"][0]["cached"] is True


def test_a_run_in_words_shows_stages_verdict_and_report(
    at: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_stages(monkeypatch, small(verdict=Verdict(False, ("too [low]",))))
    assert call(monkeypatch, "train") == 0
    told = capfd.readouterr().out
    for part in (
        "2 train (never published)",
        "done: v001 in",
        "train: made [it]",
        "train gate (report): too [low]",
        "report: outputs/default/report.html",
    ):
        assert part in told
    assert call(monkeypatch, "train", "train.gate=off") == 0
    told = capfd.readouterr().out
    assert "2 train cached v001" in told
    assert "too [low]" not in told


def test_a_deployed_run_ends_with_how_to_serve_and_ask_it(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answered(context: StageContext) -> Outcome:
        (context.folder / "predictions.jsonl").write_text('{"prompt": "What is this?"}\n')
        return Outcome()

    validate = Stage(name="validate", number=3, version=1, run=answered)
    with_stages(monkeypatch, validate, Stage(name="deploy", number=6, version=1, run=small().run))
    assert call(monkeypatch, "run-all", "deploy.host=0.0.0.0", "deploy.port=8123") == 0
    told = capsys.readouterr().out
    assert "serve:  vlmpipe serve deploy.host=0.0.0.0 deploy.port=8123\n" in told
    assert "then:   curl http://127.0.0.1:8123/chat " in told
    assert "What is this?" in told
    assert call(monkeypatch, "run-all", "deploy.port=0") == 0
    assert "then:" not in capsys.readouterr().out


def test_status_as_json_has_its_schema(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_stages(monkeypatch, replace(MAKE, run=small().run), small())
    assert call(monkeypatch, "run-all", "--to", "make") == 0
    capsys.readouterr()
    assert call(monkeypatch, "status", "--json", "run.seed=7") == 0
    assert one_object(capsys.readouterr().out) == {
        "run": "default",
        "stages": [
            {
                "stage": "make",
                "number": 0,
                "version": "v001",
                "state": "stale",
                "why": ["run.seed"],
            },
            {
                "stage": "train",
                "number": 2,
                "version": None,
                "state": "missing",
                "why": ["never published"],
            },
        ],
    }
    assert call(monkeypatch, "status", "run.seed=7") == 0
    table = capsys.readouterr().out
    assert re.search(r"make .* v001 .* stale .* run\.seed", table)


def test_corruption_ends_status_with_exit_code_4(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_stages(monkeypatch, small())
    assert call(monkeypatch, "run-all") == 0
    (at / "outputs/default/2_train/v001/data.txt").write_text("b")
    assert call(monkeypatch, "status") == 4
    assert "2_train/v001/data.txt: sha256" in capsys.readouterr().err
    assert call(monkeypatch, "status", "--json", "--verify") == 4
    assert one_object(capsys.readouterr().out)["error"]["kind"] == "ArtifactError"


def test_a_refused_gate_ends_with_exit_code_7_and_a_report(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gated = Stage(name="merge", number=4, version=1, run=small().run, gated_by=("train",))
    with_stages(monkeypatch, small(verdict=Verdict(False, ("too low",))), gated)
    assert call(monkeypatch, "run-all", "train.gate=enforce") == 7
    told = capsys.readouterr().err
    for part in ("too low", "--allow-failed-gate", "train.gate=report", "report.html"):
        assert part in told
    assert (at / "outputs/default/report.html").is_file()
    assert call(monkeypatch, "run-all", "train.gate=enforce", "--allow-failed-gate") == 0


def test_a_bug_crashes_and_still_leaves_one_json_object(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_stages(monkeypatch, replace(MAKE, run=failing("a bug")))
    with pytest.raises(RuntimeError, match="a bug") as caught:
        call(monkeypatch, "run-all", "--json", "run.seed=3")
    assert one_object(capsys.readouterr().out)["error"]["message"] == "a bug"
    assert "then go on with: vlmpipe run-all --json run.seed=3" in caught.value.__notes__


@pytest.mark.parametrize(
    "words",
    [
        ["run-all", "--use", "train"],
        ["run-all", "--use", "train="],
        ["run-all", "--use", "trian=v001"],
        ["run-all", "--force", "trian"],
        ["run-all", "--from", "trian"],
        ["run-all", "--to", "trian"],
        ["run-all", "--from", "deploy", "--to", "setup"],
    ],
    ids=" ".join,
)
def test_stages_that_are_none_are_refused_with_exit_code_2(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert call(monkeypatch, *words) == 2
    assert "  -> " in capsys.readouterr().err
    assert not list(at.iterdir())


@pytest.mark.parametrize(
    ("words", "pending", "expected"),
    [
        ("run-all -c a.yaml --force train x=1", (), "run-all -c a.yaml x=1"),
        ("run-all --force=train --force merge -c a.yaml", (), "run-all -c a.yaml"),
        ("run-all --force train --force=merge", ("merge",), "run-all --force merge"),
        ("train --force -c a.yaml x=1", (), "train -c a.yaml x=1"),
        ("train --force -c a.yaml x=1", ("train",), "train --force -c a.yaml x=1"),
        ("run-all --allow-failed-gate", (), "run-all --allow-failed-gate"),
        ('run-all \'data.sources=[{"path": "a b"}]\'', (), None),
        ("run-all --force", (), "run-all"),
        ("", (), ""),
    ],
)
def test_the_resuming_command_does_not_force_what_was_made(
    words: str, pending: tuple[str, ...], expected: str | None
) -> None:
    command = resuming_command(["vlmpipe", *shlex.split(words)], pending)
    wanted = words if expected is None else expected
    assert shlex.split(command) == ["vlmpipe", *shlex.split(wanted)]


@pytest.mark.parametrize("words", [["train", "--force"], ["run-all", "--force", "train"]])
def test_force_works_in_both_forms(
    at: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    with_stages(monkeypatch, small())
    assert call(monkeypatch, *words, "run.seed=1") == 0
    assert call(monkeypatch, *words, "run.seed=1") == 0
    assert os.readlink("outputs/default/2_train/latest") == "v002"


INTERRUPTED = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from pathlib import Path
from vlmpipe.cli import app, execute
from vlmpipe.pipeline import Stage

def wait(context):
    Path("begun").touch()
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(600)

execute.STAGES = (Stage(name="train", number=2, version=1, run=wait),)
sys.argv[0] = "vlmpipe"
app.main()
"""


@pytest.mark.parametrize(("name", "as_json"), [("SIGTERM", False), ("SIGINT", True)])
def test_an_interrupt_ends_with_130_and_the_command_that_goes_on(
    at: Path, name: str, as_json: bool
) -> None:
    words = ["train", "--force", "run.seed=3", *["--json"] * as_json]
    argv = [sys.executable, "-c", INTERRUPTED, str(ROOT / "tests"), *words]
    with subprocess.Popen(
        argv, cwd=at, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "waiting\n":
            assert process.poll() is None
        process.send_signal(getattr(signal, name))
        out, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    told = json.dumps(one_object(out)) if as_json else err
    assert f"go on with: vlmpipe {shlex.join(words)}" in told
    assert "what was published stays" in told
    assert "outputs/default/logs/2_train.log" in told


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_disk_that_fills_up_outside_of_a_stage_is_told_too(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_stages(monkeypatch, small())
    full = OSError(errno.ENOSPC, "No space left on device", "report.html")
    monkeypatch.setattr(execute, "write_report", raising(full))
    assert call(monkeypatch, "run-all") == 5
    assert "no space left on the disk" in capsys.readouterr().err


def test_an_interrupt_outside_of_a_run_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vlmpipe.cli.status.load_config", raising(KeyboardInterrupt()))
    assert call(monkeypatch, "status", "--json") == 130
    assert one_object(capsys.readouterr().out)["error"]["exit_code"] == 130


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["config", "show"],
        ["status", "-c", str(TINY)],
        ["run-all", "--dry-run", "-c", str(TINY)],
    ],
    ids=" ".join,
)
def test_quick_commands_import_nothing_heavy(at: Path, words: list[str]) -> None:
    done = vlmpipe_process(*words, cwd=at)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].strip() == "imported:"


def test_a_run_in_which_all_is_cached_imports_nothing_heavy(at: Path) -> None:
    words = ["model.system_prompt=Read."]
    publish_all(at / "outputs", words)
    done = vlmpipe_process("run-all", "-c", str(TINY), *words, "--json", cwd=at)
    # What the check finds is this machine's own; a stage that it stops is not reached.
    assert done.returncode in (0, 3), done.stderr
    assert done.stderr.splitlines()[-1].strip() == "imported:"
    found = one_object(done.stdout)
    if done.returncode == 0:
        assert [row["cached"] for row in found["stages"]] == [False] + [True] * 6
        assert found["serve"] == shlex.join(["vlmpipe", "serve", "-c", str(TINY), *words])
        assert Path(at, found["report"]).is_file()


def test_a_reader_that_leaves_early_is_no_crash(at: Path) -> None:
    argv = [sys.executable, "-m", "vlmpipe", "config", "show"]
    with subprocess.Popen(
        argv, cwd=at, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
