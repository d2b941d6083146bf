"""`vlmpipe serve`: the deployed service in the foreground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vlmpipe.cli import options
from vlmpipe.config import Config, load_config
from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline import RunStore
from vlmpipe.pipeline.manifest import verify_outputs
from vlmpipe.pipeline.status import departure_of

EXAMPLE_QUESTION = "What does this show?"


def serve(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Serve this folder, not the run's latest.", metavar="DIR"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Serve what deploy published, until Ctrl-C."""
    from vlmpipe.serving.example import ANY_IMAGE, curl_example, example_of_run
    from vlmpipe.serving.run import bind, run_gateway, url_of
    from vlmpipe.serving.settings import read_settings

    loaded = load_config(config or (), overrides or ())
    console = Console(stderr=as_json)
    folder, log = _bundle_of(loaded, bundle, console)
    settings = read_settings(folder)
    listening = bind(loaded.deploy.host, loaded.deploy.port)
    url = url_of(listening)
    if as_json:
        typer.echo(json.dumps({"url": url, "model": settings.model_id, "bundle": str(folder)}))
    console.print(f"serving [bold]{escape(settings.model_id)}[/] on {url} (Ctrl-C stops it)")
    image = ANY_IMAGE if settings.has_vision else None
    run_folder = loaded.run.outputs_dir / loaded.run.name
    known = None if bundle else example_of_run(run_folder, url)
    curl = known or curl_example(url, EXAMPLE_QUESTION, image=image)
    console.print(curl, markup=False, highlight=False, soft_wrap=True)
    run_gateway(folder, listening, worker_log=log, on_state=lambda state: console.print(state))


def _bundle_of(config: Config, given: Path | None, console: Console) -> tuple[Path, Path | None]:
    """The folder to serve and where its worker logs; a published folder is never written to."""
    if given is not None:
        return given, None
    from vlmpipe.stages import STAGES
    from vlmpipe.stages.s6_deploy import DEPLOY

    store = RunStore(config.run.outputs_dir, config.run.name)
    version = store.latest(DEPLOY)
    if version is None:
        raise ArtifactError(
            f"the run {store.folder} has no deployed service",
            "make one: `vlmpipe run-all` with the same options",
            "or serve a bundle from elsewhere: --bundle DIR",
        )
    # Sizes alone: the gateway hashes what it is about to load.
    verify_outputs(version.folder, version.manifest, thorough=False)
    verdict = version.manifest.verdict
    if verdict is not None and not verdict.passed:
        console.print(f"[yellow]{version.name} failed its own tests[/]; serving it all the same")
    departure = departure_of(DEPLOY.name, STAGES, config, store)
    if departure:
        console.print(
            f"[yellow]{escape(departure)}[/]; serving {version.name} all the same",
            highlight=False,
            soft_wrap=True,
        )
    log = store.folder / "logs" / "serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return version.folder / "bundle", log
