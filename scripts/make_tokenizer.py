"""Train the embedded models' tokenizer and write it as package data.

    python scripts/make_tokenizer.py

Byte-level BPE behind Qwen2's pre-tokenizer, over text as the tasks' answers look: HTML tables,
JSON, Mermaid, SMILES, English words and the Korean question set. Every byte is in the vocabulary,
so any text can be encoded; frequent strings of the tasks are single tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from vlmpipe.models.tokenizer import PRE_TOKENIZER_PATTERN, SPECIAL_TOKENS, THINKING_TOKENS

VOCABULARY_SIZE = 2048
WORD_LIST = """
total mean value rate group control age sex year month day name item price count unit level
score time dose test base high low left right north south east west red blue green black
white apple bread water stone river table chart graph figure page line word data model
number sample result method patient hospital diagnosis surgery claim date amount account
"""
WORDS = WORD_LIST.split()
SNIPPETS = (
    '{"patient": "A", "date": "2024-01-31", "amount": 120000, "items": [{"code": "K35.8"}]}',
    'xychart-beta\n    title "Sales"\n    x-axis ["Q1", "Q2", "Q3"]\n    bar [10, 20, 30]',
    'pie title "Share"\n    "A" : 40\n    "B" : 60',
    'flowchart TD\n    A["start"] -->|"yes"| B{"check"}\n    B --> C["end"]',
    "CC(=O)Oc1ccccc1C(=O)O CN1C=NC2=C1C(=O)N(C(=O)N2C)C C1CCCCC1 [C@@H](N)C(=O)O",
    "Convert the table in the image to HTML.",
    "Extract company, date, address and total from the receipt as JSON.",
)


def corpus(seed: int = 0) -> Iterator[str]:
    """Texts to count pairs in; the same on every machine."""
    rng = random.Random(seed)
    for _ in range(3000):
        rows, columns = rng.randint(1, 6), rng.randint(1, 5)
        cells = (_cell(rng) for _ in range(rows * columns))
        body = "".join(
            "<tr>" + "".join(f"<td>{next(cells)}</td>" for _ in range(columns)) + "</tr>"
            for _ in range(rows)
        )
        yield f"<table>{body}</table>"
        yield '<table><thead><tr><th colspan="2">' + _cell(rng) + "</th></tr></thead><tbody>"
    questions = files("vlmpipe.tasks").joinpath("data/qa_ko.jsonl").read_text(encoding="utf-8")
    texts = [m["content"] for line in questions.splitlines() for m in json.loads(line)["messages"]]
    for _ in range(40):
        yield from texts
    for _ in range(60):
        yield from SNIPPETS


def _cell(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        return str(rng.randint(0, 9999))
    if kind < 0.5:
        return f"{rng.uniform(0, 100):.2f}%"
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 3)))


def train() -> Tokenizer:
    """The tokenizer, special tokens after the vocabulary, as in Qwen2."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(PRE_TOKENIZER_PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    added = len(SPECIAL_TOKENS) + len(THINKING_TOKENS)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE - added,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in THINKING_TOKENS])
    return tokenizer


def main() -> None:
    """Write the tokenizer beside the code that loads it."""
    target = Path(__file__).parent.parent / "src/vlmpipe/models/data/tokenizer.json"
    tokenizer = train()
    tokenizer.save(str(target))
    print(f"{target.name}: {tokenizer.get_vocab_size()} entries, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
