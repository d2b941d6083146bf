"""Make the weights of `embedded:tiny` from nothing but generated pages.

    python scripts/pretrain_embedded.py --out pretraining

It can be stopped and started again with the same command: it goes on from its last checkpoint.
`--device cuda --workers 16` is meant for a machine with a GPU; the shipped weights were made on a
CPU. The weights and their card are written over those in the package, src/vlmpipe/models/data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch

from pretraining.examination import LEVELS, examine
from pretraining.lessons import SEED, Course
from pretraining.publication import publish
from pretraining.reader import Reader
from pretraining.texts import KOREAN
from pretraining.tower import fused

PACKAGE_DATA = Path(__file__).parent.parent / "src/vlmpipe/models/data"


def new_reader() -> Reader:
    """The embedded model before it has learned anything, with its heads."""
    from vlmpipe.models.embedded import untrained

    torch.manual_seed(SEED)
    return Reader(untrained("tiny").float())


def embedded_tokenizer(folder: Path) -> Any:
    """The embedded tokenizer, as transformers loads it."""
    from transformers import AutoTokenizer

    from vlmpipe.models.families import FAMILIES
    from vlmpipe.models.tokenizer import write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, FAMILIES["qwen2_5_vl"].chat_template)
    return AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Give the lessons, then write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pages")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("this machine shows torch no GPU; leave out --device to use the CPU")
    torch.set_num_threads(arguments.threads)
    tokenizer = embedded_tokenizer(arguments.out / "tokenizer")
    reader = new_reader().to(arguments.device)
    fused(reader.model)
    course = Course(reader, tokenizer, arguments.out, arguments.workers)
    course.run(lambda line: print(line, flush=True))
    model = course.reader.model.eval()
    # Answers grow token by token: compiling for every length would take longer than reading.
    with torch.compiler.set_stance("force_eager"):
        marks = {name: examine(model, tokenizer, level, name) for name, level in LEVELS.items()}
    for name, each in marks.items():
        print(f"{name}: {each}")
    publish(model, marks, PACKAGE_DATA, hangul=len(set("".join(KOREAN))))


if __name__ == "__main__":
    main()
