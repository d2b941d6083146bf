"""Outside programs: logs, failures, time limits, and what happens when the parent dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlmpipe.errors import ToolError
from vlmpipe.system.process import answer_of, run_program


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until_gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_output_and_command_line_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "tool.log"
    run_program(python("print('made it')"), what="making", log=log)
    text = log.read_text()
    assert text.startswith("$ ")
    assert "made it" in text


def test_a_failure_repeats_the_last_lines_and_names_the_log(tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    code = "import sys; [print('line', i) for i in range(40)]; sys.exit(3)"
    with pytest.raises(ToolError, match="exit code 3") as caught:
        run_program(python(code), what="counting", log=log, remedies=("count less",))
    assert caught.value.exit_code == 6
    assert caught.value.problems[-1] == "line 39"
    assert len(caught.value.problems) == 12
    assert "count less" in caught.value.remedies
    assert any(str(log) in remedy for remedy in caught.value.remedies)


def test_lines_of_an_earlier_program_in_the_same_log_are_not_repeated(tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    run_program(python("print('from before')"), what="first", log=log)
    with pytest.raises(ToolError) as caught:
        run_program(python("print('now'); exit(1)"), what="second", log=log)
    assert caught.value.problems == ("now",)


def test_a_program_that_is_not_there_is_a_tool_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no-such-program"):
        run_program(["no-such-program"], what="trying", log=tmp_path / "tool.log")


def test_a_program_over_its_time_is_stopped_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child.pid"
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ToolError, match="did not end within 2 s"):
        run_program(python(code), what="sleeping", log=tmp_path / "tool.log", timeout_s=2)
    assert wait_until_gone(int(child.read_text()))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="util-linux's setpriv is not here")
def test_a_program_can_be_watched_while_it_runs_and_is_still_stopped_in_time(
    tmp_path: Path,
) -> None:
    seen: list[bytes] = []
    log = tmp_path / "x.log"
    script = ["sh", "-c", "echo half; sleep 60"]
    with pytest.raises(ToolError, match="did not end within 2 s"):
        run_program(
            script, what="x", log=log, timeout_s=2, watch=lambda: seen.append(log.read_bytes())
        )
    assert b"half" in seen[-1]


def test_a_program_ends_when_its_parent_is_killed_outright(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    inner = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import sys\nfrom pathlib import Path\n"
        "from vlmpipe.system.process import run_program\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        f"run_program([sys.executable, '-c', {inner!r}], what='x', log=log)"
    )
    parent = subprocess.Popen(python(outer))
    while not (pid_file.exists() and pid_file.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(int(pid_file.read_text()))


def test_environment_is_laid_over_the_present_one(tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    code = "import os; print(os.environ['VLMPIPE_TEST'], 'PATH' in os.environ)"
    run_program(python(code), what="looking", log=log, env={"VLMPIPE_TEST": "seen"})
    assert "seen True" in log.read_text()


@pytest.mark.parametrize("argv", [["no-such-program"], python("exit(1)")])
def test_a_quick_question_without_an_answer_is_none(argv: list[str]) -> None:
    assert answer_of(argv) is None


def test_a_quick_question_returns_standard_output_only() -> None:
    assert answer_of(python("import sys; print('out'); print('err', file=sys.stderr)")) == "out\n"
