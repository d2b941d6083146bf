"""`vlmpipe train`: stage 2, in one process or in several."""

from __future__ import annotations

from vlmpipe.cli import options
from vlmpipe.cli.launch import AccelerateConfig, NumProcesses, execute_in_processes
from vlmpipe.cli.request import Request


def train(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    force: options.ForceThis = False,
    use: options.Use = None,
    allow_failed_gate: options.AllowFailedGate = False,
    num_processes: NumProcesses = None,
    accelerate_config: AccelerateConfig = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Stage 2: fine-tune with QLoRA, resolution curriculum, post-image masking."""
    request = Request(
        files=config or (),
        overrides=overrides or (),
        first="train",
        last="train",
        force=("train",) if force else (),
        use=use or (),
        allow_failed_gate=allow_failed_gate,
        dry_run=dry_run,
        as_json=as_json,
    )
    execute_in_processes(request, num_processes, accelerate_config)
