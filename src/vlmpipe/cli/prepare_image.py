"""`vlmpipe prepare-image`: an image on its exact grid, for a runtime that resizes by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json
from vlmpipe.config.data import DataConfig
from vlmpipe.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from vlmpipe.encoding.images import ImageGrid

STDOUT = Path("-")
DEFAULT_MAX_PIXELS: int = DataConfig.model_fields["max_image_pixels"].default


@dataclass(frozen=True)
class Prepared:
    """One image's way; sizes are [height, width] in pixels."""

    source: str
    target: str
    size_before: tuple[int, int]
    size: tuple[int, int]
    image_tokens: int


def prepare_image(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="One image and the PNG to write (- for stdout); with --out-dir, images only.",
            metavar="IN... OUT",
        ),
    ],
    contract: Annotated[
        Path,
        typer.Option(
            help="preprocess_contract.json, or a folder with it: a run, a stage, a bundle.",
            metavar="PATH",
        ),
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option(help="Write each image to DIR/NAME.png.", metavar="DIR"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse an image of more pixels unread.", min=1)
    ] = DEFAULT_MAX_PIXELS,
    as_json: options.AsJson = False,
) -> None:
    """Resize images as training did, so that the runtime that is asked has nothing to resize.

    For a bare llama-server or Ollama; `vlmpipe serve` does it by itself.
    """
    from vlmpipe.encoding.contract_source import find_contract

    targets = _targets(paths, out_dir)
    _refuse_targets(targets, force=force, as_json=as_json)
    found = find_contract(contract)
    if not found.has_vision:
        raise ConfigError(f"the contract in {contract} is of a text-only model: it takes no images")
    done, problems = _prepare_all(targets, found.grid, max_pixels)
    if not (as_json and problems):  # one JSON object, which is the error's then
        _report(done, as_json=as_json, to_stdout=STDOUT in targets.values())
    if problems:
        count = f"{len(problems)} of {len(targets)} images" if len(targets) > 1 else "the image"
        raise ArtifactError(f"{count} cannot be prepared", problems=problems)


def _targets(paths: Sequence[Path], out_dir: Path | None) -> dict[Path, Path]:
    """Each image to its PNG file."""
    if out_dir is not None:
        return {path: out_dir / f"{path.stem}.png" for path in paths}
    if len(paths) != 2:
        raise ConfigError(
            f"one image and one OUT are expected, {len(paths)} paths were given",
            "prepare several at once: vlmpipe prepare-image IN... --out-dir DIR --contract PATH",
        )
    return {paths[0]: paths[1]}


def _refuse_targets(targets: dict[Path, Path], *, force: bool, as_json: bool) -> None:
    files = list(targets.values())
    if as_json and STDOUT in files:
        raise ConfigError("--json and an image on stdout exclude each other", "give OUT a name")
    twice = sorted({str(path) for path in files if files.count(path) > 1})
    if twice:
        raise ConfigError(
            f"several images would become {', '.join(twice)}",
            "prepare those of the same name into different folders: --out-dir DIR",
        )
    there = [str(path) for path in files if path != STDOUT and path.exists()]
    if there and not force:
        raise ConfigError(f"{', '.join(there)} exists already", "replace it: --force")


def _prepare_all(
    targets: dict[Path, Path], grid: ImageGrid, max_pixels: int
) -> tuple[list[Prepared], list[str]]:
    """What was written, and what is wrong with the others."""
    done: list[Prepared] = []
    problems: list[str] = []
    for source, target in targets.items():
        try:
            done.append(_prepare(source, target, grid, max_pixels))
        except ValueError as exc:
            problems.append(f"{source}: {exc}".replace("data.max_image_pixels", "--max-pixels"))
    return done, problems


def _prepare(source: Path, target: Path, grid: ImageGrid, max_pixels: int) -> Prepared:
    from vlmpipe.data.images import encode_png, load_image
    from vlmpipe.pipeline.files import write_bytes

    image = load_image(source, max_pixels)
    prepared = grid.prepare(image)
    data = encode_png(prepared)
    if target == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_bytes(target, data)
    return Prepared(
        source=str(source),
        target=str(target),
        size_before=(image.height, image.width),
        size=(prepared.height, prepared.width),
        image_tokens=prepared.height * prepared.width // grid.factor**2,
    )


def _report(done: Sequence[Prepared], *, as_json: bool, to_stdout: bool) -> None:
    if as_json:
        print_json({"images": [asdict(each) for each in done]})
        return
    console = Console(stderr=to_stdout)
    for each in done:
        before, after = _shown(each.size_before), _shown(each.size)
        change = f"{before} -> {after}" if before != after else f"{before} is on its grid already"
        tokens = f"(height x width), {each.image_tokens} image tokens"
        line = f"{each.source}: {change} {tokens}: {each.target}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
