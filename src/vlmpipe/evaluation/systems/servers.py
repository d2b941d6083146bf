"""Systems behind servers: what they hold, only they know."""

from __future__ import annotations

from functools import partial

from vlmpipe.engines.openai_access import server_root
from vlmpipe.evaluation.systems import opening
from vlmpipe.evaluation.systems.opening import Asking
from vlmpipe.evaluation.systems.order import SystemOrder
from vlmpipe.evaluation.systems.run import Run


def openai_order(run: Run, asking: Asking, name: str, address: str) -> SystemOrder:
    """An OpenAI-compatible server, asked by the contract of the run's latest stage.

    Raises:
        ConfigError: for what is no address, or carries a password.
        ArtifactError: before train.
    """
    url, _, model = address.partition("#")
    server_root(url)
    contract = run.served_contract()
    return SystemOrder(
        name=name,
        engine_type="openai",
        model_name=model or url,
        merge_state="unknown",
        quantization=None,
        digests={},
        contract_digest=contract.digest,
        open=partial(opening.open_openai, url, model or None, contract, name, asking),
        image_resize=asking.resize,
        attempts=asking.retries + 1,
    )


def ollama_order(run: Run, name: str, model: str) -> SystemOrder:
    """A model of the Ollama server at `convert.ollama_url`.

    Raises:
        ArtifactError: before train.
    """
    contract = run.served_contract()
    return SystemOrder(
        name=name,
        engine_type="ollama",
        model_name=model,
        merge_state="unknown",
        quantization=None,
        digests={},
        contract_digest=contract.digest,
        open=partial(opening.open_ollama, run.config.convert.ollama_url, model, contract),
    )
