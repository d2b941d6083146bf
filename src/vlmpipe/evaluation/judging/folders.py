"""Folders under a run, beside its stages, where opinions on its answers lie."""

JUDGE_FOLDER = "judge"
REVIEW_FOLDER = "review"
