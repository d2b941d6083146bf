"""Train the embedded models' tokenizer and write it as package data.

    python scripts/make_tokenizer.py

Byte-level BPE with Qwen2's pre-tokenizer, over what the tasks' generators write: HTML, Mermaid,
SMILES, JSON, English and Korean. Every byte is in the vocabulary, so any text can be encoded.

Merges are learned over narrower pieces than Qwen2's: a word never joins the sign or space before
it, nor a unit a tag. `>Name`, ` Name` and `"Name` then all hold the token `Name`, and a model that
has learned to read a word need not learn it again behind every sign.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split
from tokenizers.trainers import BpeTrainer

from vlmpipe.models.tokenizer import PRE_TOKENIZER_PATTERN, SPECIAL_TOKENS, THINKING_TOKENS
from vlmpipe.tasks import TASKS

VOCABULARY_SIZE = 2048
SEED = 0
LEARNING_PATTERN = (
    r"\p{L}+|\p{N}|[<>/]+|[$%€₩°]| ?[^\s\p{L}\p{N}<>/$%€₩°]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAMPLES = {"table": 1000, "chart": 800, "molecule": 1000, "document": 300, "caption": 400}
"""Answers of each task in the corpus, to which each task's questions add little."""


def corpus() -> Iterator[str]:
    """Texts to count pairs in; the same on every machine."""
    for name, count in SAMPLES.items():
        for index in range(count):
            sample = TASKS[name].generate(index, SEED, (0.0, 1.0))
            yield sample.reference
            if index % 20 == 0:
                yield sample.messages[0].text
    for index in range(12 * 30):
        sample = TASKS["qa"].generate(index, SEED, (0.0, 1.0))
        yield sample.messages[0].text
        yield sample.reference
    yield from _words()


def _words() -> Iterator[str]:
    """Each word as it stands in running text and as a heading."""
    text = files("vlmpipe.tasks").joinpath("data/words.txt").read_text(encoding="utf-8")
    rng = random.Random(SEED)
    for _ in range(30):
        word = text.split()
        rng.shuffle(word)
        yield " ".join(word)
        yield " ".join(each.capitalize() for each in word)


def train() -> Tokenizer:
    """The tokenizer, special tokens after the vocabulary, as in Qwen2."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = _split(LEARNING_PATTERN)
    tokenizer.decoder = ByteLevelDecoder()
    added = len(SPECIAL_TOKENS) + len(THINKING_TOKENS)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE - added,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.pre_tokenizer = _split(PRE_TOKENIZER_PATTERN)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in THINKING_TOKENS])
    return tokenizer


def _split(pattern: str) -> PreTokenizer:
    return Sequence(
        [
            Split(Regex(pattern), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def main() -> None:
    """Write the tokenizer beside the code that loads it."""
    target = Path(__file__).parent.parent / "src/vlmpipe/models/data/tokenizer.json"
    tokenizer = train()
    tokenizer.save(str(target))
    print(f"{target.name}: {tokenizer.get_vocab_size()} entries, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
