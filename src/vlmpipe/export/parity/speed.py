"""How fast a file answers, and how much memory a process takes that does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine
from vlmpipe.system.process import answer_of

SPEED_ROUNDS = 3
"""Timed answers of each file, after those that warm it up."""

ANSWER_TOKENS = 64
FOOTPRINT_TIMEOUT_S = 600.0


def measure_speed(engine: Engine, sample: Sample) -> tuple[float, float]:
    """Prompt and answer tokens a second of an engine that has answered before: medians of a few.

    The prompt's share is the time until the first token, image included; the answer's what follows
    it, 0 where no second token came.
    """
    done = [
        engine.complete(sample.prompt, max_new_tokens=ANSWER_TOKENS) for _ in range(SPEED_ROUNDS)
    ]
    prompts = [each.prompt_tokens / max(each.first_token_seconds, 1e-9) for each in done]
    return median(prompts), median(each.tokens_per_second for each in done)


def memory_mib(
    gguf: Path, mmproj: Path | None, contract: PreprocessContract, sample: Sample, scratch: Path
) -> float | None:
    """Peak resident memory of a fresh process that loads the files and answers one sample.

    None where the process could not tell.
    """
    contract.write(scratch)
    images = [scratch / f"footprint-{index}.png" for index in range(len(sample.images))]
    for path, image in zip(images, sample.images, strict=True):
        image.save(path)
    order = {
        "gguf": str(gguf),
        "mmproj": str(mmproj) if mmproj else None,
        "images": [str(path) for path in images],
    }
    text = answer_of(
        [
            *(sys.executable, "-m", "vlmpipe.export.parity.child_footprint"),
            *(json.dumps(order), scratch),
        ],
        timeout_s=FOOTPRINT_TIMEOUT_S,
    )
    return float(text.split()[-1]) if text else None
