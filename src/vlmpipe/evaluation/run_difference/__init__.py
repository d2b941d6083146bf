"""Two runs held against each other: settings, data, libraries, metrics, answers."""

from vlmpipe.evaluation.run_difference.answers import AnswersDifference, EngineDifference
from vlmpipe.evaluation.run_difference.data import DataDifference, SplitDifference
from vlmpipe.evaluation.run_difference.runs import Run, RunDifference, compare_runs, find_run
from vlmpipe.evaluation.run_difference.values import Change, MetricChange, StageMetrics

__all__ = [
    "AnswersDifference",
    "Change",
    "DataDifference",
    "EngineDifference",
    "MetricChange",
    "Run",
    "RunDifference",
    "SplitDifference",
    "StageMetrics",
    "compare_runs",
    "find_run",
]
