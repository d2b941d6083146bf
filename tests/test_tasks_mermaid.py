"""Validity of charts by Mermaid's own parser: right, bounded, and absent rather than guessed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from vlmpipe.errors import ToolError
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system import mermaid_tool
from vlmpipe.system.mermaid_tool import install_mermaid, installed_mermaid, why_no_mermaid
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.chart import mermaid as validity
from vlmpipe.tasks.chart.mermaid import close_parser, is_valid_mermaid, process

CHART = TASKS["chart"]
PIE = 'pie\n"a" : 1'
OFFLINE = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT")
SHIPPED = Path(mermaid_tool.__file__).parent / "mermaid_parser"

needs_parser = pytest.mark.skipif(installed_mermaid() is None, reason=str(why_no_mermaid()))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    close_parser()
    yield
    close_parser()


def parser_pid() -> int:
    parser = validity._held.parser
    assert parser is not None
    return parser.pid


def gone(pid: int, within_s: float = 30.0) -> bool:
    """Whether a process ends; a zombie has."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@needs_parser
@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (PIE, True),
        ('xychart-beta\nx-axis ["북", "남"]\nbar [1, 2]', True),
        ("xychart-beta\nx-axis [북, 남]\nbar [1, 2]", False),
        ('flowchart TD\nA["시작"] -->|"예"| B{"끝?"}', True),
        ("flowchart TD\nA -> B", False),
        ("flowchart TD\nA[x (y)]", False),
        ("sequenceDiagram\nA->>B: hello", True),
        ("", False),
        ("a bar chart of sales", False),
        ('pie\n"\ud800" : 1', True),
        ('flowchart TD\nA["\x00"]', True),
        ("\x00\ud800\u2028\n", False),
        ("flowchart TD\nA" + "(" * 40_000, False),
    ],
)
def test_the_real_parser_decides(text: str, valid: bool) -> None:
    assert is_valid_mermaid(text) is valid


@needs_parser
def test_a_fence_is_taken_off_before_it_is_asked() -> None:
    assert CHART.measure(f"```mermaid\n{PIE}\n```", PIE)["valid"] == 1.0
    assert CHART.measure("```mermaid\npie of it\n```", PIE)["valid"] == 0.0


@needs_parser
def test_a_diagram_of_another_sort_is_valid_and_still_wrong() -> None:
    scores = CHART.measure("sequenceDiagram\nA->>B: hello", PIE)
    assert (scores["valid"], scores["well_formed"], scores["chart_f1"]) == (1.0, 0.0, 0.0)


@needs_parser
@pytest.mark.slow
def test_every_chart_that_is_drawn_is_valid() -> None:
    for seed in range(20):
        for language in ("en", "ko"):
            reference = CHART.generate(seed, seed, (0.0, 1.0), [language]).reference
            assert is_valid_mermaid(reference) is True, reference


@needs_parser
def test_settings_in_one_text_do_not_reach_the_next() -> None:
    limited = '%%{init: {"flowchart": {"htmlLabels": false}, "maxEdges": 0}}%%\n'
    many = "flowchart TD\n" + "A --> B\n" * 400
    is_valid_mermaid(limited + many)
    assert is_valid_mermaid(many) is True


@needs_parser
def test_a_megabyte_is_invalid_at_once_and_the_parser_lives_on() -> None:
    assert is_valid_mermaid(PIE) is True
    pid = parser_pid()
    assert is_valid_mermaid("flowchart TD\n" + "A --> B\n" * 131_000) is False
    assert is_valid_mermaid(PIE) is True
    assert parser_pid() == pid


@needs_parser
def test_a_request_larger_than_a_pipe_arrives_whole() -> None:
    # Six bytes a character in JSON: 300 KB through a pipe that holds 64.
    assert is_valid_mermaid("pie title " + "한" * 49_000 + '\n"a" : 1') is True


@needs_parser
def test_one_process_answers_all_questions_of_all_threads() -> None:
    texts = [PIE, "no chart"] * 20
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(is_valid_mermaid, texts))
    assert answers == [True, False] * 20
    mine = psutil.Process().children()
    assert [child.pid for child in mine if "node" in child.name()] == [parser_pid()]


@needs_parser
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_parser_that_died_is_replaced_and_the_text_asked_again(number: signal.Signals) -> None:
    assert is_valid_mermaid(PIE) is True
    first = parser_pid()
    os.kill(first, number)
    assert gone(first)
    assert is_valid_mermaid(PIE) is True
    assert parser_pid() != first


@needs_parser
@pytest.mark.slow
def test_a_parser_that_hangs_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_valid_mermaid(PIE) is True
    first = parser_pid()
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(process, "ANSWER_LIMIT_S", 0.5)
    validity._asked("no chart")
    assert gone(first)
    monkeypatch.undo()
    assert is_valid_mermaid(PIE) is True
    assert parser_pid() != first


@needs_parser
def test_a_stopped_parser_takes_no_large_text_either(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = process.ParserProcess(installed_mermaid())  # type: ignore[arg-type]
    os.kill(parser.pid, signal.SIGSTOP)
    monkeypatch.setattr(process, "ANSWER_LIMIT_S", 0.5)
    with pytest.raises(process.ParserStoppedError, match="no answer in time"):
        parser.accepts("한" * 40_000)
    parser.stop()
    assert gone(parser.pid)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A `node` that is ready and then does `body` for each line that it reads."""
    script = f"#!/bin/sh\necho '{{\"ready\": true}}'\nwhile read -r line; do {body}; done\n"
    put_node(tmp_path, monkeypatch, script)


def put_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "node").write_text(script)
    (programs / "node").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path / "cache"))
    (mermaid_tool.mermaid_folder() / "node_modules").mkdir(parents=True)


@pytest.mark.parametrize(
    "body",
    ["kill -9 $$", "exit 0", "sleep 60", "echo nonsense", 'echo \'{"id": 7000, "valid": true}\''],
)
def test_a_text_on_which_the_parser_always_stops_is_invalid(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, body)
    monkeypatch.setattr(process, "ANSWER_LIMIT_S", 0.3)
    assert is_valid_mermaid(PIE) is False
    assert CHART.measure(PIE, PIE)["valid"] == 0.0


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho v18\nsleep 60\n", "no program at all"]
)
def test_a_parser_that_does_not_start_measures_nothing_and_is_tried_once(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_node(
        tmp_path,
        monkeypatch,
        script.replace("#!/bin/sh\n", f"#!/bin/sh\ndate >> {tmp_path}/starts\n"),
    )
    monkeypatch.setattr(process, "START_LIMIT_S", 5.0)
    for _ in range(3):
        assert is_valid_mermaid(PIE) is None
        assert "valid" not in CHART.measure(PIE, PIE)
    if script.startswith("#!"):
        assert len((tmp_path / "starts").read_text().splitlines()) == 1


def test_without_node_or_its_packages_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    for text in (PIE, "nonsense"):
        scores = CHART.measure(text, PIE)
        assert "valid" not in scores
        assert "well_formed" in scores
    assert "node is not on the path" in str(why_no_mermaid())
    with pytest.raises(ToolError, match="node is not on the path") as caught:
        install_mermaid(SilentReporter())
    assert any("make mermaid" in remedy for remedy in caught.value.remedies)
    monkeypatch.undo()
    monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path))
    assert "valid" not in CHART.measure(PIE, PIE)
    assert not list(tmp_path.iterdir())


IN_A_HANG = """
import os, sys, threading, time
from vlmpipe.tasks.chart import mermaid
mermaid.is_valid_mermaid("pie")
print(mermaid._held.parser.pid, flush=True)
if sys.argv[1] == "parsing":
    mermaid.process.ANSWER_LIMIT_S = 600
    minutes = "flowchart TD\\n" + "subgraph x\\n" * 20_000
    threading.Thread(target=mermaid._held.parser.accepts, args=[minutes], daemon=True).start()
if sys.argv[1] == "forked" and os.fork() == 0:
    os.close(1)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


@needs_parser
@pytest.mark.slow
@pytest.mark.parametrize("doing", ["nothing", "parsing", "forked"])
def test_the_parser_dies_with_its_parent(doing: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_HANG, doing], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        children = [child.pid for child in psutil.Process(parent.pid).children()]
        parent.kill()
        parent.wait()
        assert pid in children
        assert gone(pid)
        for child in children:
            if child != pid:
                os.kill(child, signal.SIGKILL)


def _judged(texts: list[str]) -> tuple[list[bool | None], int]:
    return [is_valid_mermaid(text) for text in texts], parser_pid()


@needs_parser
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.slow
def test_worker_processes_have_parsers_of_their_own(method: str) -> None:
    assert is_valid_mermaid(PIE) is True
    mine = parser_pid()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, context) as pool:
        answers, theirs = pool.submit(_judged, [PIE, "no chart"]).result()
    assert answers == [True, False]
    assert theirs != mine
    assert gone(theirs)
    assert is_valid_mermaid(PIE) is True
    assert parser_pid() == mine


@needs_parser
@pytest.mark.slow
def test_a_fork_while_another_thread_asks_does_not_wait_for_its_lock() -> None:
    assert is_valid_mermaid(PIE) is True
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with validity._held.lock:
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        os._exit(0 if is_valid_mermaid(PIE) else 1)
    _, status = os.waitpid(child, 0)
    release.set()
    thread.join()
    assert status == 0


def test_the_lock_file_pins_every_package_and_names_no_place() -> None:
    text = (SHIPPED / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(text)["packages"]
    root = packages.pop("")
    wanted = json.loads((SHIPPED / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert root["dependencies"] == wanted == {"jsdom": "29.1.1", "mermaid": "11.17.2"}
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    assert not re.search(r'"resolved"|registry', text)


NPM = """#!/bin/sh
[ "$1" = ci ] && [ -f package-lock.json ] || exit 9
echo "npm ci" >> {log}
{end}
"""


def put_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    programs = tmp_path / "npm-programs"
    programs.mkdir(exist_ok=True)
    for name, text in {
        "npm": NPM.format(log=tmp_path / "calls", end=end),
        "node": "#!/bin/sh",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path / "cache"))


def test_runs_that_start_together_install_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, monkeypatch, "sleep 0.3; mkdir node_modules")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(install_mermaid, [SilentReporter(), SilentReporter()])
    assert first == second == installed_mermaid()
    assert (tmp_path / "calls").read_text() == "npm ci\n"
    assert why_no_mermaid() is None


def test_a_failed_installation_leaves_nothing_and_shows_npms_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, monkeypatch, "mkdir node_modules; echo ENOTFOUND the registry; exit 1")
    with pytest.raises(ToolError, match="npm ended with exit code 1") as caught:
        install_mermaid(SilentReporter())
    assert "ENOTFOUND the registry" in caught.value.problems
    assert installed_mermaid() is None
    assert not [path for path in (tmp_path / "cache" / "mermaid").iterdir() if path.is_dir()]
    put_npm(tmp_path, monkeypatch, "mkdir node_modules")
    assert install_mermaid(SilentReporter()).folder.is_dir()


@pytest.mark.slow
def test_npm_installs_a_parser_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed_mermaid() is None or shutil.which("npm") is None:
        pytest.skip(str(why_no_mermaid()))
    monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path))
    try:
        install_mermaid(SilentReporter())
    except ToolError as error:
        if OFFLINE.search(str(error)):
            pytest.skip(f"npm's packages cannot be fetched here: {error.message}")
        raise
    assert is_valid_mermaid(PIE) is True
    assert is_valid_mermaid("pie of it") is False
