"""One command in several processes: started here, or by `accelerate launch`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer
from rich.console import Console

from vlmpipe.cli.console import print_error
from vlmpipe.cli.request import Request
from vlmpipe.errors import ConfigError, VlmpipeError
from vlmpipe.training.distributed.place import Place, place_of

NumProcesses = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        min=1,
        help="Train in this many processes of this machine, one to a GPU.",
        metavar="N",
    ),
]
AccelerateConfig = Annotated[
    Path | None,
    typer.Option(
        "--accelerate-config",
        exists=True,
        dir_okay=False,
        help="How they share the model: a file of configs/accelerate; without one each holds it.",
        metavar="FILE",
    ),
]


def execute_in_processes(
    request: Request, num_processes: int | None, accelerate_config: Path | None
) -> None:
    """Run the request: here, as one of the processes of a launch, or by launching them."""
    from vlmpipe.cli.execute import execute  # the stages would slow `--help`

    place = place_of()
    if accelerate_config is not None and num_processes is None:
        raise ConfigError(
            f"--accelerate-config {accelerate_config} says how processes share a model, and how"
            " many is not said",
            "add --num-processes N",
        )
    if place is None and (num_processes or 1) > 1 and not request.dry_run:
        raise SystemExit(_launch(num_processes or 1, accelerate_config))
    if place is None:
        execute(request)
    elif place.is_first:
        from vlmpipe.training.distributed.assembly import leading

        with leading(place):
            execute(request)
    else:
        raise SystemExit(_follow(place))


def _launch(num_processes: int, accelerate_config: Path | None) -> int:
    """Start this very command in processes that find in their environment which one they are."""
    from vlmpipe.training.distributed.launching import launch_settings, run_workers

    settings = launch_settings(accelerate_config, num_processes)
    notes = Path(mkdtemp(prefix="vlmpipe-launch-"))
    command = [sys.executable, "-m", "vlmpipe", *sys.argv[1:]]
    try:
        code = run_workers(command, num_processes, settings, notes)
    except VlmpipeError as error:
        error.remedies = (*error.remedies, f"what the processes printed: {notes}")
        raise
    shutil.rmtree(notes)
    return code


def _follow(place: Place) -> int:
    """A process other than the first: it prints nothing but an error of its own."""
    from vlmpipe.cli.execute import quieten_libraries

    quieten_libraries()
    from vlmpipe.cli.following import train_as_told
    from vlmpipe.training.distributed.assembly import follow
    from vlmpipe.training.distributed.failures import PeerLostError

    try:
        follow(place, train_as_told)
    except PeerLostError as error:
        return error.exit_code
    except KeyboardInterrupt:  # all of them stop, and process 0 says so
        return 0
    except VlmpipeError as error:
        print_error(Console(stderr=True), error)
        return error.exit_code
    return 0
