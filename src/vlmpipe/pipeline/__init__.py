"""The pipeline: stages, fingerprints, manifests, the versioned store, the runner.

Knows nothing of models, of the command line, or of what the stages do.
"""

from vlmpipe.pipeline.options import RunOptions, StageResult
from vlmpipe.pipeline.runner import Runner
from vlmpipe.pipeline.stage import Outcome, Stage, StageContext, Verdict
from vlmpipe.pipeline.status import StageStatus, run_status
from vlmpipe.pipeline.store import RunStore, Version

__all__ = [
    "Outcome",
    "RunOptions",
    "RunStore",
    "Runner",
    "Stage",
    "StageContext",
    "StageResult",
    "StageStatus",
    "Verdict",
    "Version",
    "run_status",
]
