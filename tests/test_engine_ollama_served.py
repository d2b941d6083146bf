"""What an Ollama server says of the model that it runs, and how records hold it."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest

from export_models import contract_of
from ollama_server import Model, OllamaServer, running
from vlmpipe.engines.base import Served
from vlmpipe.engines.ollama import OllamaEngine
from vlmpipe.engines.ollama_api import OllamaApi
from vlmpipe.evaluation.systems import SystemOrder

WEIGHTS = b"GGUF"


@pytest.fixture
def server():
    held = Model({}, WEIGHTS, None)
    with running(OllamaServer(models={"claims:latest": held, "claims:old": held})) as found:
        yield found


@pytest.mark.parametrize("name", ["claims", "claims:latest", "claims:old"])
def test_digest_and_quantisation_are_the_servers(server, name):
    with OllamaApi(server.url) as api:
        served = OllamaEngine(api, name, contract_of("qwen3")).served
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert served == Served(name, {"manifest": digest}, "q4_k_m")


def test_a_model_that_is_not_listed_is_left_open(server):
    with OllamaApi(server.url) as api:
        assert OllamaEngine(api, "other", contract_of("qwen3")).served == Served("other")


def test_records_hold_what_the_server_says():
    order = SystemOrder(
        name="ollama:claims",
        engine_type="ollama",
        model_name="claims",
        merge_state="unknown",
        quantization=None,
        digests={},
        contract_digest="2" * 64,
        open=partial(int),
    )
    served = Served("claims", {"manifest": "1" * 64}, "q4_k_m")
    system = order.identity("ollama 0.31.1", max_new_tokens=8, seed=0, served=served)
    assert (system.digests, system.quantization) == ({"manifest": "1" * 64}, "q4_k_m")
    assert system.lora_enabled is None
    unknown = order.identity("ollama 0.31.1", max_new_tokens=8, seed=0)
    assert unknown.digest != system.digest
