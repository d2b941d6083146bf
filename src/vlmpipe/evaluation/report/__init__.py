"""The page that each run ends with, self-contained, from manifests and the files beside them."""

from vlmpipe.evaluation.report.page import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]
