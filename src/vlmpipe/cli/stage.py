"""One command for each stage: `vlmpipe train` and so on."""

from __future__ import annotations

from collections.abc import Callable

from vlmpipe.cli import options
from vlmpipe.cli.request import Request

SUMMARIES = {
    "check": "Stage 0: hold this machine against what the configuration requires.",
    "setup": "Stage 1: resolve the base model, prepare the data, fetch the tools.",
    "train": "Stage 2: fine-tune with QLoRA, resolution curriculum, post-image masking.",
    "validate": "Stage 3: base against tuned; over-fit, agreement, image reliance.",
    "merge": "Stage 4: fold the adapter into 16-bit weights.",
    "convert": "Stage 5: GGUF, the quantised set, Ollama.",
    "deploy": "Stage 6: start, smoke-test and measure the service; write its bundle.",
}


def stage_command(name: str) -> Callable[..., None]:
    """The function behind `vlmpipe NAME`."""

    def run_one(
        overrides: options.Overrides = None,
        config: options.ConfigFiles = None,
        force: options.ForceThis = False,
        use: options.Use = None,
        allow_failed_gate: options.AllowFailedGate = False,
        dry_run: options.DryRun = False,
        as_json: options.AsJson = False,
    ) -> None:
        from vlmpipe.cli.execute import execute  # the stages would slow `--help`

        request = Request(
            files=config or (),
            overrides=overrides or (),
            first=name,
            last=name,
            force=(name,) if force else (),
            use=use or (),
            allow_failed_gate=allow_failed_gate,
            dry_run=dry_run,
            as_json=as_json,
        )
        execute(request)

    run_one.__doc__ = SUMMARIES[name]
    return run_one
