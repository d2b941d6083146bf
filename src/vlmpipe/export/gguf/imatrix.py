"""An importance matrix measured on the task's own samples, images included.

For each linear layer of the language model: the mean square of every input column. A weight's
rounding error counts in the output as much as the input that it is multiplied by, so the quantiser
spends its precision on the columns where inputs are large. llama.cpp's own llama-imatrix reads text
only; here the model in transformers reads the conversations as it was trained on them, and the
result is written in llama.cpp's format (tools/imatrix/imatrix.cpp).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import StageError
from vlmpipe.export.gguf.children import run_child
from vlmpipe.export.gguf.names import gguf_names
from vlmpipe.models.families import Family, family_of, stated_dtype
from vlmpipe.models.loading import load_model, load_tokenizer, release_memory
from vlmpipe.pipeline.events import Reporter, SilentReporter
from vlmpipe.system.llama_cpp import LlamaCppSources

IMATRIX_NAME = "imatrix.gguf"
SAMPLES = 64
"""Conversations that a matrix is measured on: with images some tens of thousands of tokens, which
is what llama.cpp's own guides measure on."""


@dataclass
class InputSquares:
    """What went into one linear layer."""

    sums: Any
    """float64 tensor [columns]: squares summed over all rows."""

    rows: int = 0
    """Tokens that were read."""


def write_imatrix(
    model: Path,
    contract: PreprocessContract,
    samples: Sequence[Sample],
    path: Path,
    sources: LlamaCppSources,
    *,
    log: Path | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Let a merged model read whole conversations, write what its layers saw to `path`.

    The model reads in the precision of its own weights. `log` takes the writer's output; it is
    beside `path` otherwise.

    Raises:
        ArtifactError: when tokenizer and image processor are not those of the contract.
        StageError: when there are no samples, or an activation is not finite.
        ToolError: when the file cannot be written by llama.cpp's gguf package.
    """
    if not samples:
        raise StageError(
            "there is no sample to measure an importance matrix on",
            "quantise without one: convert.imatrix=false",
        )
    squares = measure(model, contract, samples, reporter or SilentReporter())
    release_memory()  # the quantiser and the ladder follow in this process
    images = sum(len(sample.images) for sample in samples)
    dataset = f"{len(samples)} samples of the task with {images} images"
    family, chunks = family_of(model), len(samples)
    return write_squares(
        squares, model, family, path, sources, dataset=dataset, chunks=chunks, log=log
    )


def measure(
    model: Path, contract: PreprocessContract, samples: Sequence[Sample], reporter: Reporter
) -> dict[str, InputSquares]:
    """One forward pass over each whole conversation, images prepared by the contract."""
    import torch

    loaded = load_model(model, dtype=stated_dtype(model))
    encoder = Encoder(load_tokenizer(model), contract)
    engine = HfEngine(loaded, encoder, "hf:imatrix")
    with input_squares(loaded, family_of(model)) as squares, torch.inference_mode():
        for done, sample in enumerate(samples):
            reporter.progress("importance matrix", done, len(samples))
            encoded = encoder.encode_sample(sample.messages, scope="assistant")
            loaded(**engine.model_inputs(encoded), use_cache=False, logits_to_keep=1)
    reporter.progress_done()
    return squares


def spread(samples: Sequence[Sample], count: int = SAMPLES) -> list[Sample]:
    """At most `count` samples, evenly over the whole list: curricula are ordered."""
    step = max(len(samples) / count, 1.0)
    return [samples[int(step * number)] for number in range(min(count, len(samples)))]


@contextmanager
def input_squares(model: Any, family: Family) -> Iterator[dict[str, InputSquares]]:
    """Sums by parameter name, filled by every pass of the model within.

    Of the blocks' linear layers alone, as llama-imatrix has it: embedding and head are held in
    other types.
    """
    import torch

    blocks = re.compile(rf"{family.layer_pattern}\.")
    layers = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and blocks.match(name)
    }
    squares = {
        name: InputSquares(torch.zeros(module.in_features, dtype=torch.float64))
        for name, module in layers.items()
    }
    hooks = [
        module.register_forward_pre_hook(_adder(squares[name])) for name, module in layers.items()
    ]
    try:
        yield squares
    finally:
        for hook in hooks:
            hook.remove()


def write_squares(
    squares: Mapping[str, InputSquares],
    model: Path,
    family: Family,
    path: Path,
    sources: LlamaCppSources,
    *,
    dataset: str,
    chunks: int,
    log: Path | None = None,
) -> Path:
    """Sums under llama.cpp's names, in its importance matrix format.

    Raises:
        StageError: when a sum is not finite.
        ToolError: when the file cannot be written.
    """
    from safetensors.torch import save_file

    _refuse_non_finite(squares)
    names = gguf_names(squares, model, family, sources)
    sums = path.with_suffix(".sums.safetensors")
    save_file({names[key]: each.sums.float() for key, each in squares.items()}, sums)
    order = {
        "sources": os.fspath(sources.folder.resolve()),
        "sums": os.fspath(sums),
        "counts": {names[key]: each.rows for key, each in squares.items()},
        "dataset": dataset,
        "chunks": chunks,
        "chunk_size": max(each.rows for each in squares.values()) // max(chunks, 1),
        "outfile": os.fspath(path),
    }
    try:
        run_child(
            "child_imatrix.py",
            order,
            folder=path.parent,
            log=log or path.with_suffix(".log"),
            what=f"writing {path.name}",
            remedy="quantise without one: convert.imatrix=false",
        )
    finally:
        sums.unlink(missing_ok=True)
    return path


def _adder(squares: InputSquares) -> Any:
    def add(module: Any, inputs: tuple[Any, ...]) -> None:
        import torch

        rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        squares.sums += rows.float().pow(2).sum(0, dtype=torch.float64).cpu()
        squares.rows += len(rows)

    return add


def _refuse_non_finite(squares: Mapping[str, InputSquares]) -> None:
    import torch

    for name, each in squares.items():
        if not torch.isfinite(each.sums).all():
            raise StageError(
                f"the inputs of {name} are not finite on the task's samples: the merged model is"
                " broken, or its weights overflow",
                "look at the losses of merge in the report",
                "or quantise without one: convert.imatrix=false",
            )
