"""Stages of a few lines, and runs of them; for tests of the pipeline itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmpipe.pipeline import (
    Outcome,
    Runner,
    RunOptions,
    RunStore,
    Stage,
    StageContext,
    StageResult,
    StageStatus,
    Verdict,
    Version,
    run_status,
)
from vlmpipe.pipeline.events import SilentReporter


class FakeConfig:
    """Nested settings, as much of a configuration as the pipeline asks for."""

    def __init__(self, **sections: Any) -> None:
        self.tree: dict[str, Any] = {
            "make": {"text": "hello", "note": "", "verdict": "passed", "gate": "enforce"},
            "use": {"times": 2, "gate": "enforce"},
            "end": {"suffix": "!"},
        }
        for name, section in sections.items():
            self.tree[name] = {**self.tree.get(name, {}), **section}

    def model_dump(self, *, mode: str, by_alias: bool) -> dict[str, Any]:
        """As pydantic would."""
        return json.loads(json.dumps(self.tree))


def make(context: StageContext) -> Outcome:
    """A hand-off file, a log that never repeats, a verdict, a metric."""
    settings = context.config.tree["make"]
    (context.folder / "data").mkdir(exist_ok=True)
    (context.folder / "data" / "text.txt").write_text(settings["text"])
    (context.folder / "times.log").write_text(settings["note"])
    verdict = settings["verdict"]
    return Outcome(
        metrics={"make/length": float(len(settings["text"]))},
        verdict=Verdict(verdict == "passed", () if verdict == "passed" else (verdict,)),
        summary=(f"made {settings['text']}",),
        facts={"device": "none"},
    )


def use(context: StageContext) -> Outcome:
    """The text of `make`, repeated."""
    text = (context.upstream["make"] / "data" / "text.txt").read_text()
    (context.folder / "out.txt").write_text(text * context.config.tree["use"]["times"])
    return Outcome()


def end(context: StageContext) -> Outcome:
    """The text of `use`, with a suffix."""
    text = (context.upstream["use"] / "out.txt").read_text()
    (context.folder / "end.txt").write_text(text + context.config.tree["end"]["suffix"])
    return Outcome()


MAKE = Stage(name="make", number=0, version=1, run=make, reads=("make",), ignores=("make.verdict",))
USE = Stage(
    name="use",
    number=1,
    version=1,
    run=use,
    reads=("use",),
    consumes={"make": ("data/*",)},
    gated_by=("make",),
)
END = Stage(
    name="end", number=2, version=1, run=end, reads=("end",), consumes={"use": ("out.txt",)}
)
STAGES = (MAKE, USE, END)


class Reporter(SilentReporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stage_started(self, stage: str, number: int, why: str) -> None:
        """Remember."""
        self.told.append(f"{stage} started: {why}")

    def stage_cached(self, stage: str, number: int, version: str) -> None:
        """Remember."""
        self.told.append(f"{stage} cached: {version}")

    def note(self, text: str) -> None:
        """Remember."""
        self.told.append(text)


class Run:
    """A run of fake stages in a folder of its own."""

    def __init__(self, outputs: Path, stages: Iterable[Stage] = STAGES) -> None:
        self.stages = tuple(stages)
        self.store = RunStore(outputs, "run")
        self.told: list[str] = []

    def __call__(self, config: FakeConfig | None = None, **options: Any) -> list[StageResult]:
        """Run all stages."""
        reporter = Reporter()
        runner = self.runner(config, reporter, **options)
        try:
            return runner.run()
        finally:
            self.told = reporter.told

    def runner(
        self, config: FakeConfig | None = None, reporter: Reporter | None = None, **options: Any
    ) -> Runner:
        """A runner that was not started."""
        chosen = RunOptions(**{"command": "vlmpipe run-all", **options})
        return Runner(
            self.stages, config or FakeConfig(), self.store, reporter or Reporter(), chosen
        )

    def done(self, config: FakeConfig | None = None, **options: Any) -> dict[str, str]:
        """Run; for each stage its version, a star for one that was cached."""
        return {r.stage: r.version + "*" * r.cached for r in self(config, **options)}

    def status(self, config: FakeConfig | None = None, **options: Any) -> list[StageStatus]:
        """Status of all stages."""
        return run_status(self.stages, config or FakeConfig(), self.store, **options)

    def states(self, config: FakeConfig | None = None) -> dict[str, tuple[str, ...]]:
        """For each stage its state and why."""
        return {row.stage: (row.state, *row.why) for row in self.status(config)}

    def latest(self, name: str) -> Version:
        """The latest version of a stage."""
        version = self.store.latest(self.stage(name))
        assert version is not None
        return version

    def stage(self, name: str) -> Stage:
        """A stage by name."""
        return next(stage for stage in self.stages if stage.name == name)

    def folder(self, name: str) -> Path:
        """Where a stage's versions lie."""
        return self.store.stage_folder(self.stage(name))

    def journal(self) -> list[Mapping[str, Any]]:
        """Every decision that was recorded."""
        path = self.store.folder / "journal.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines]


def failing(text: str = "boom") -> Callable[[StageContext], Outcome]:
    """A stage function that leaves half a file and fails."""

    def fail(context: StageContext) -> Outcome:
        (context.folder / "half.txt").write_text("half")
        raise RuntimeError(text)

    return fail


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
