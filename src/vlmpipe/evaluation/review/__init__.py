"""People as judges: a sheet of blind pairs, and what comes back of it."""

from vlmpipe.evaluation.review.results import ReviewResults, import_reviews
from vlmpipe.evaluation.review.sheet import Sheet, write_sheet

__all__ = ["ReviewResults", "Sheet", "import_reviews", "write_sheet"]
