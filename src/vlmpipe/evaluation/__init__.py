"""Tasks over engines: answers, image reliance, verdicts, and the report of a run."""
