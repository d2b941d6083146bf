"""`vlmpipe judge`: what a language model says of the answers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmpipe.cli import options
from vlmpipe.cli.console import RichReporter
from vlmpipe.cli.output import print_json, stdout_reserved
from vlmpipe.config import Config, load_config
from vlmpipe.config.judge import JudgeConfig
from vlmpipe.errors import ConfigError, InterruptError, ToolError

if TYPE_CHECKING:
    from vlmpipe.evaluation.judging import JudgeSummary, PairSummary, PointSummary
    from vlmpipe.evaluation.judging.agreement import Estimate
    from vlmpipe.evaluation.judging.cases import CaseSource

Engines = Annotated[
    str,
    typer.Option(
        help="Whose answers, as `vlmpipe evaluate` names them, e.g. hf:base,hf:adapter.",
        metavar="A,B",
    ),
]
Data = Annotated[
    str,
    typer.Option(help="What was asked: heldout, train, or a JSONL file.", metavar="DATA"),
]


def judge(
    engines: Engines,
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    data: Data = "heldout",
    as_json: options.AsJson = False,
) -> None:
    """Have a language model judge answers: two engines side by side, one by scores from 1 to 5.

    The judge is `validate.judge`, e.g. validate.judge.base_url=http://127.0.0.1:8000/v1
    validate.judge.model=NAME. What it said is kept, so that the same command asks nothing twice.
    """
    from vlmpipe.evaluation.judging.folders import JUDGE_FOLDER

    loaded = load_config(config or (), overrides or ())
    console = Console(stderr=as_json)
    with stdout_reserved(as_json):
        summaries = _judged(loaded, chosen_engines(engines), data, console)
    if as_json:
        print_json(
            {
                "run": loaded.run.name,
                "judgements": [each.model_dump(mode="json") for each in summaries],
            }
        )
    else:
        for each in summaries:
            _show(console, each)
        folder = loaded.run.outputs_dir / loaded.run.name / JUDGE_FOLDER
        console.print(f"verdicts: {folder}", markup=False, highlight=False, soft_wrap=True)
    _refuse_silence(summaries)


def chosen_engines(words: str, *, at_least: int = 1) -> list[str]:
    """One or two engines in a comma-separated list.

    Raises:
        ConfigError: where they are fewer or more, or one is named twice.
    """
    names = [name.strip() for name in words.split(",") if name.strip()]
    if not at_least <= len(names) <= 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"--engines {words!r} does not name two different engines"
            + (", or one" if at_least == 1 else ""),
            "name them as `vlmpipe evaluate` does: --engines hf:base,hf:adapter",
        )
    return names


def _judged(
    config: Config, engines: Sequence[str], data: str, console: Console
) -> Sequence[JudgeSummary]:
    from vlmpipe.evaluation.judging import judge_pairs, judge_points
    from vlmpipe.evaluation.judging.cases import cases_of_run
    from vlmpipe.evaluation.judging.folders import JUDGE_FOLDER

    settings = _settings(config)
    pairwise = _is_pairwise(settings, engines)
    cases = cases_of_run(config, engines, data, settings.samples)
    folder = config.run.outputs_dir / config.run.name / JUDGE_FOLDER
    reporter = RichReporter(console)
    _announce(console, cases, settings)
    try:
        if pairwise:
            first, second = engines
            told = _progress(reporter, cases, "pairs")
            return [judge_pairs(cases, settings, (first, second), folder, told)]
        return [
            judge_points(cases, settings, each, folder, _progress(reporter, cases, each))
            for each in engines
        ]
    except KeyboardInterrupt as exc:
        command = shlex.join(["vlmpipe", *sys.argv[1:]])
        raise InterruptError(
            "interrupted; what the judge said stays", f"go on with: {command}"
        ) from exc
    finally:
        reporter.progress_done()


def _settings(config: Config) -> JudgeConfig:
    settings = config.validation.judge
    if settings is None:
        raise ConfigError(
            "no judge is configured",
            "name an endpoint that speaks OpenAI's chat completions, and its model:"
            " validate.judge.base_url=http://HOST:PORT/v1 validate.judge.model=NAME",
        )
    return settings


def _is_pairwise(settings: JudgeConfig, engines: Sequence[str]) -> bool:
    if settings.mode == "pairwise" and len(engines) == 1:
        raise ConfigError(
            f"validate.judge.mode=pairwise compares two engines, and --engines names {engines[0]}",
            f"name another one as well: --engines {engines[0]},OTHER",
            "or have it scored by itself: validate.judge.mode=pointwise",
        )
    return len(engines) == 2 and settings.mode != "pointwise"


def _announce(console: Console, cases: CaseSource, settings: JudgeConfig) -> None:
    left_out = [f"{count} without {name}" for name, count in cases.unanswered.items() if count]
    without = f" (left out: {', '.join(left_out)})" if left_out else ""
    console.print(
        f"{cases.count} samples of {cases.source.name}{without}, judged by {settings.model}"
        f" at {settings.base_url}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _progress(reporter: RichReporter, cases: CaseSource, label: str) -> Callable[[int], None]:
    return lambda done: reporter.progress(f"judging {label}", done, cases.count)


def _refuse_silence(summaries: Sequence[JudgeSummary]) -> None:
    """A judge that was asked and said nothing at all is a fault, not a result."""
    from vlmpipe.evaluation.judging import PairSummary

    for each in summaries:
        unasked = each.identical if isinstance(each, PairSummary) else 0
        if each.judged > unasked or each.cases == unasked:
            continue
        raise ToolError(
            f"the judge {each.judge.model} at {each.judge.base_url} gave no verdict on any of"
            f" {each.cases - unasked} samples",
            "look whether it is there, and its name: validate.judge.base_url, validate.judge.model",
            "a key that it needs: validate.judge.api_key_env=NAME",
            problems=[f"{text} ({count} times)" for text, count in each.faults.items()][:5],
        )


def _show(console: Console, summary: JudgeSummary) -> None:
    from vlmpipe.evaluation.judging import PairSummary, PointSummary

    if isinstance(summary, PairSummary):
        console.print(_pair_table(summary))
    elif isinstance(summary, PointSummary):
        console.print(_point_table(summary))
    for line in _asides(summary):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _pair_table(summary: PairSummary) -> Table:
    table = Table(title_justify="left")
    for column in ("engine", "wins", "ties", "win rate", "of the decided"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name in summary.engines:
        table.add_row(
            escape(name),
            str(summary.wins[name]),
            str(summary.ties),
            shown(summary.win_rate[name]),
            shown(summary.decided[name]),
        )
    return table


def _point_table(summary: PointSummary) -> Table:
    table = Table(title_justify="left")
    for column in ("engine", "mean score", "1", "2", "3", "4", "5", "rank correlation"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    counts = [str(summary.scores[score]) for score in range(1, 6)]
    table.add_row(
        escape(summary.engines[0]),
        shown(summary.mean_score),
        *counts,
        shown(summary.correlation),
    )
    return table


def _asides(summary: JudgeSummary) -> list[str]:
    from vlmpipe.evaluation.judging import PairSummary

    lines = [f"{summary.judged} of {summary.cases} judged; {summary.no_verdict} without a verdict,"]
    lines[0] += f" {summary.failed} not answered"
    if isinstance(summary, PairSummary):
        lines += _pair_asides(summary)
    lines.append(_costs(summary))
    lines += [f"{count} x {text}" for text, count in list(summary.faults.items())[:5]]
    return lines


def _pair_asides(summary: PairSummary) -> list[str]:
    agreement, metrics = summary.agreement, ", ".join(summary.metrics) or "the metric"
    return [
        f"position: the order decided {shown(summary.order_decided)} of the samples (counted as"
        f" ties); the answer shown first won {shown(summary.first_wins)} of the verdicts with a"
        " winner",
        f"with {metrics}: agrees on {shown(agreement.agree)} of {agreement.agree.n} that both"
        f" decide; ties of the judge alone {agreement.first_ties}, of the metric alone"
        f" {agreement.second_ties}; kappa {shown(agreement.kappa)}",
    ]


def _costs(summary: JudgeSummary) -> str:
    usage = summary.usage
    cost = "" if usage.cost is None else f", cost {usage.cost:.4g}"
    unknown = f" ({usage.unmetered} replies not counted)" if usage.unmetered else ""
    return (
        f"{usage.replies} replies, {usage.asked_now} asked now; {usage.input_tokens} tokens in,"
        f" {usage.output_tokens} out{cost}{unknown}"
    )


def shown(estimate: Estimate) -> str:
    """A figure with its interval in brackets, where it has one."""
    if estimate.value is None:
        return "not defined"
    if estimate.interval is None:
        return f"{estimate.value:.2f}"
    low, high = estimate.interval
    return f"{estimate.value:.2f} ({low:.2f}–{high:.2f})"
