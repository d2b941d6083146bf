"""A language model as a judge of answers: two engines side by side, or one by itself."""

from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.judging.pairwise import judge_pairs
from vlmpipe.evaluation.judging.pointwise import judge_points
from vlmpipe.evaluation.judging.summary import JudgeSummary, PairSummary, PointSummary

__all__ = [
    "Case",
    "JudgeSummary",
    "PairSummary",
    "PointSummary",
    "judge_pairs",
    "judge_points",
]
