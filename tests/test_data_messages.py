"""The messages format: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_files import SHARED_DATA, turns, write_lines
from vlmpipe.data.messages import ImageName, Record, numbered_lines, parse_record
from vlmpipe.data.problems import SampleError


def parsed(record: Any) -> Record:
    raw = record if isinstance(record, bytes) else json.dumps(record).encode()
    return parse_record(raw)


def conversation(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_parts_keep_their_order() -> None:
    content = [
        {"type": "text", "text": "first "},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "then"},
    ]
    record = parsed(
        {**conversation(("user", content), ("assistant", "yes")), "id": 7, "task": "qa"}
    )
    assert record.messages[0].parts == ("first ", ImageName("a.png"), "then")
    assert record.messages[1].parts == ("yes",)
    assert (record.id, record.task) == ("7", "qa")
    assert record.image_names == ("a.png",)


def test_several_turns_after_a_system_message() -> None:
    record = parsed(
        conversation(
            ("system", "Be brief."),
            ("user", "1+1?"),
            ("assistant", "2"),
            ("user", "2+2?"),
            ("assistant", "4"),
        )
    )
    assert [message.role for message in record.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]


def test_images_beside_fill_the_places_in_order() -> None:
    record = parsed(
        {
            **conversation(("user", "<image>\nand <image>?"), ("assistant", "same")),
            "images": ["a.png", "b.png"],
        }
    )
    assert record.messages[0].parts == (
        ImageName("a.png"),
        "\nand ",
        ImageName("b.png"),
        "?",
    )


def test_an_image_part_without_a_path_takes_one_from_beside() -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    record = parsed({**conversation(("user", content), ("assistant", "x")), "images": ["a.png"]})
    assert record.messages[0].parts == (ImageName("a.png"), "What?")


def test_without_images_beside_a_place_is_just_text() -> None:
    record = parsed(conversation(("user", "What is <image> in SVG?"), ("assistant", "A tag.")))
    assert record.messages[0].parts == ("What is <image> in SVG?",)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        pytest.param(b"{", "not valid JSON", id="broken JSON"),
        pytest.param(b'{"messages": [\xff]}', "not UTF-8 text at byte 14", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "nesting too deep", id="nested too deep"),
        pytest.param(b"1" * 10_000, "number too long", id="number too long"),
        pytest.param([1, 2], "holds a list, not an object", id="a list"),
        pytest.param(None, "holds nothing, not an object", id="null"),
        pytest.param({"text": "x"}, '"messages" is not a list', id="no messages"),
        pytest.param({"messages": []}, '"messages" is not a list', id="empty messages"),
        pytest.param({"messages": "hi"}, '"messages" is not a list', id="messages a text"),
        pytest.param({"messages": ["hi"]}, "message 1 is a text", id="a turn is a text"),
        pytest.param(conversation(("human", "x")), "role 'human'", id="wrong role"),
        pytest.param(conversation((["user"], "x")), "role ['user']", id="role a list"),  # type: ignore[list-item]
        pytest.param(conversation(("user", 5)), "a number as content", id="content a number"),
        pytest.param({"messages": [{"role": "user"}]}, "nothing as content", id="no content"),
        pytest.param(conversation(("user", "x")), "no assistant answer", id="no answer"),
        pytest.param(conversation(("system", "x")), "no assistant answer", id="system only"),
        pytest.param(
            conversation(("user", "x"), ("assistant", " \n")),
            "the answer is empty",
            id="blank answer",
        ),
        pytest.param(
            conversation(("user", "x"), ("assistant", [])), "the answer is empty", id="empty answer"
        ),
        pytest.param(
            conversation(("user", ""), ("assistant", "x")), "a user turn is empty", id="no question"
        ),
        pytest.param(
            conversation(("assistant", "x")), "'assistant' stands where 'user'", id="answer first"
        ),
        pytest.param(
            conversation(("user", "x"), ("user", "y"), ("assistant", "z")),
            "'user' stands where 'assistant'",
            id="two questions",
        ),
        pytest.param(
            conversation(("user", "x"), ("system", "y"), ("assistant", "z")),
            "'system' stands where 'assistant'",
            id="system in the middle",
        ),
        pytest.param(
            conversation(("user", "x"), ("assistant", [{"type": "image", "image": "a.png"}])),
            "turn holds an image",
            id="image in the answer",
        ),
        pytest.param(
            conversation(("user", [{"type": "video", "video": "a.mp4"}]), ("assistant", "x")),
            "type 'video'",
            id="a video",
        ),
        pytest.param(
            conversation(("user", [{"type": "text"}]), ("assistant", "x")),
            "type 'text'",
            id="text part without text",
        ),
        pytest.param(
            conversation(("user", [{"type": "image"}]), ("assistant", "x")),
            'names no "image"',
            id="image part without path",
        ),
        pytest.param(
            conversation(("user", [{"type": "image", "image": 5}]), ("assistant", "x")),
            "an image is a number",
            id="path a number",
        ),
        pytest.param(
            conversation(("user", [{"type": "image", "image": "a\0.png"}]), ("assistant", "x")),
            "not the path of a file",
            id="path with a zero byte",
        ),
        pytest.param(
            conversation(
                ("user", [{"type": "image", "image": "http://x/a.png"}]), ("assistant", "x")
            ),
            "is an address; save it as a file",
            id="an address",
        ),
        pytest.param(
            conversation(("user", ["hi"]), ("assistant", "x")), "a part is a text", id="part a text"
        ),
        pytest.param(
            {**conversation(("user", "no place"), ("assistant", "x")), "images": ["a.png"]},
            '1 of "images" fill no <image>',
            id="image without place",
        ),
        pytest.param(
            {**conversation(("user", "x"), ("assistant", "y")), "images": "a.png"},
            '"images" is a text, not a list',
            id="images a text",
        ),
        pytest.param(
            {**conversation(("user", "x"), ("assistant", "y")), "id": {"a": 1}},
            '"id" is an object',
            id="id an object",
        ),
        pytest.param(
            b'{"messages": [{"role": "user", "content": "\\ud800"}, '
            b'{"role": "assistant", "content": "x"}]}',
            "lone surrogate",
            id="half a character",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_words(record: Any, words: str) -> None:
    with pytest.raises(SampleError) as caught:
        parsed(record)
    assert words in str(caught.value)


def test_lines_keep_their_number_over_blank_ones_and_a_byte_order_mark(tmp_path: Path) -> None:
    line = {"messages": turns()}
    path = write_lines(
        tmp_path / "s.jsonl", b"\xef\xbb\xbf" + json.dumps(line).encode(), "", "  ", line
    )
    numbers = [number for number, _ in numbered_lines(path)]
    assert numbers == [1, 4]
    assert all(parse_record(raw).messages for _, raw in numbered_lines(path))


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_files_are_read_without_a_problem() -> None:
    for path in sorted(SHARED_DATA.glob("*/samples.jsonl")):
        records = [parse_record(line) for _, line in numbered_lines(path)]
        assert records
        assert all((path.parent / name).is_file() for r in records for name in r.image_names)
        assert all(record.id and record.task for record in records)
