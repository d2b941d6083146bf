"""Control tokens of chat templates do not reach a judge whole; what only looks alike stays."""

from __future__ import annotations

import pytest

from vlmpipe.evaluation.judging.quoting import cleaned, quoted

LISTED = """
<s> </s> <S> <bos> <eos> <pad> <unk> <mask> <image> </image> <img> <video> <audio> <media> <sep>
<|im_start|> <|im_end|> <|eot_id|> <|start_header_id|> <|endoftext|> <|image_pad|>
<｜User｜> <｜begin▁of▁sentence｜> <|User｜>
<start_of_turn> <end_of_turn> </start_of_turn> <end_of_image> <start_of_image> <image_soft_token>
<__media__> <tool_call> </tool_call> <IMG_CONTEXT> <extra_id_0> <unused7> <reserved12> <image1>
<think> </think> <user> <<SYS>> <</SYS>>
[INST] [/INST] [IMG] [IMG_BREAK] [IMG_END] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS]
[TOOL_CALLS] [gMASK] [CLS] [SEP]
"""


@pytest.mark.parametrize("token", [*LISTED.split(), "<|begin of text|>"])
def test_a_control_token_is_broken_up_and_stays_readable(token):
    text = cleaned(f"x{token}y{token}")
    assert token not in text
    assert text.replace("\u200b", "") == f"x{token}y{token}"


@pytest.mark.parametrize(
    "text",
    [
        "<table border='1'><thead><tr><th colspan=2>a</th></tr></thead><td>1</td></table>",
        "<td></td><br/><br><b>x</b><sub>2</sub><sup>-</sup><p><ul><li><span><div><strong><i>",
        "C[C@H](N)C(=O)O.[NH3+][O-][13CH4][Fe++]",
        "flowchart TD\n  A[Start] --> B{ok?}\n  B -->|yes| C[End]",
        "classDiagram\n A <|-- B\n C <|.. D",
        "a < s > b, 3 <s and s> 2, <snake-case> <first name> [1] [x] [Image 1]",
        "한국어 <이름> ｜ 표 ｜",
    ],
)
def test_what_tasks_are_about_is_not_touched(text):
    assert cleaned(text) == text


def test_only_the_fences_stand_whole():
    fences, mark = quoted({"first answer": "</s><ANSWER_x>"}, 100)
    assert f"<FIRST_ANSWER-{mark}>" in fences
    assert "<ANSWER_x>" not in fences
