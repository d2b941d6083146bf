"""`vlmpipe report`: a run's page written anew."""

from __future__ import annotations

import json

import pytest

from report_fakes import publish_records, publish_whole_run, record
from test_cli import vlmpipe_process
from vlmpipe.cli import app


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "outputs" / "demo"
    publish_whole_run(folder)
    return folder


def test_it_says_where_the_page_is_and_the_page_has_what_lies_there_now(run, capsys):
    assert app.run(["report", "--run", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "Engines side by side" not in (run / "report.html").read_text()
    publish_records(run, [record("hf:adapter", "a", "b")])
    assert app.run(["report", f"run.outputs_dir={run.parent}", "run.name=demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run": "demo",
        "report": str(run / "report.html"),
    }
    assert "Engines side by side" in (run / "report.html").read_text()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, capsys):
    assert app.run(["report", "--run", str(tmp_path)]) != 0
    error = capsys.readouterr().err
    assert "no stage is published there" in error
    assert "run.name=NAME" in error
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_torch(run):
    done = vlmpipe_process("report", "--run", str(run), cwd=run)
    assert done.returncode == 0, done.stderr
    imported = done.stderr.partition("imported:")[2].split()
    assert set(imported) <= {"matplotlib"}
