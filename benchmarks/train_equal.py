"""Whether both sides learn the same: the same tokens, labels and pixels, and in fp32 the same loss.

    python benchmarks/train_equal.py --folder FOLDER

Each sample goes through TRL's collator and through vlmpipe's encoder; the two must name the same
token ids, supervise the same positions and make the same pixels and grids (vlmpipe's has the line
break that ends a turn behind it, unsupervised). Then, sample by sample on one fp32 model, the loss
of transformers, of TRL's chunked head and of vlmpipe's supervised head.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import train_data
from train_process import Recipe
from train_trl import trainer_for

from vlmpipe.data.store import SplitSamples
from vlmpipe.encoding.contract import build_contract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.models.loading import load_tokenizer

BREAK = "\n"
"""Ends every turn of the chat template, the last one too; TRL's side leaves it out."""


def encoder_for(folder: Path) -> Encoder:
    """vlmpipe's encoder of the model folder, images left at their size."""
    area = train_data.BOX[0] * train_data.BOX[1]
    contract = build_contract(
        train_data.FAMILY,
        min_pixels=None,
        max_pixels=area,
        max_size=None,
        system_prompt=None,
        context_length=0,
    )
    return Encoder(load_tokenizer(folder), contract)


def batch_of(encoder: Encoder, sample: Sample) -> dict[str, torch.Tensor]:
    """One sample as a model takes it, labels included."""
    encoded = encoder.encode_sample(sample.messages)
    assert encoded.pixel_values is not None
    assert encoded.image_grid_thw is not None
    return {
        "input_ids": torch.tensor([encoded.input_ids]),
        "attention_mask": torch.ones(1, len(encoded.input_ids), dtype=torch.long),
        "mm_token_type_ids": torch.tensor([encoded.image_mask]),
        "pixel_values": torch.from_numpy(encoded.pixel_values),
        "image_grid_thw": torch.from_numpy(encoded.image_grid_thw),
        "labels": torch.tensor([encoded.labels]),
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any], break_ids: list[int]) -> list[str]:
    """Names of what differs; the line break behind ours is what TRL's lacks."""
    length = theirs["input_ids"].shape[1]
    behind = ours["input_ids"][0, length:].tolist()
    found = [] if behind == break_ids else [f"tokens behind the answer: {behind}"]
    if not bool((ours["labels"][0, length:] == -100).all()):
        found.append("labels behind the answer")
    for name in ("input_ids", "labels", "mm_token_type_ids"):
        if not torch.equal(ours[name][:, :length], theirs[name]):
            found.append(name)
    for name in ("pixel_values", "image_grid_thw"):
        if not torch.equal(ours[name], theirs[name].to(ours[name].dtype)):
            found.append(name)
    return found


def losses_of(trainer: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Mean loss of one sample by each head, on the trainer's model."""
    from vlmpipe.training.loss.supervised_head import install_supervised_head

    model = trainer.model
    install_supervised_head(model.get_base_model())
    plain = model(**batch).loss
    trl = trainer.compute_loss(model, dict(batch))
    ours = model(**batch, supervised_head=True)
    return {
        "transformers": float(plain),
        "trl": float(trl),
        "ours": float(ours.loss_sum) / int(ours.tokens),
    }


def measure(folder: Path) -> dict[str, Any]:
    """What both sides make of every sample: differences, [tokens, supervised ones], losses."""
    recipe = replace(Recipe(), dtype="float32", checkpointing=False)
    encoder = encoder_for(folder / "model")
    samples = SplitSamples(folder / "data" / train_data.PARQUET)
    break_ids = list(encoder.tokenizer(BREAK)["input_ids"])
    with tempfile.TemporaryDirectory() as output:
        trainer = trainer_for(folder, recipe, 1, Path(output))
    trainer.model.eval()
    unequal: dict[str, list[str]] = {}
    losses = []
    lengths = []
    for sample, row in zip(samples, trainer.train_dataset, strict=True):
        batch = batch_of(encoder, sample)
        theirs = trainer.data_collator([dict(row)])
        if found := differences(batch, theirs, break_ids):
            unequal[sample.id] = found
        lengths.append([theirs["input_ids"].shape[1], int((theirs["labels"] != -100).sum())])
        with torch.no_grad():
            losses.append(losses_of(trainer, batch))
    return {"samples": len(losses), "unequal": unequal, "lengths": lengths, "losses": losses}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    Recipe().use()
    print(json.dumps(measure(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
