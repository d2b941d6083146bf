"""Opens engines from plain arguments, in whatever process it is called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.engines.base import Engine
from vlmpipe.errors import ConfigError, ToolError

Resize = Literal["contract", "runtime"]


@dataclass(frozen=True)
class Asking:
    """How engines are asked that work on several conversations at once."""

    concurrency: int = 4
    """Requests to a server in flight at once."""

    timeout_s: float = 600.0
    """For one request to a server."""

    retries: int = 4
    api_key_env: str | None = None
    """Name of the environment variable that holds a server's key. None by default: a key that lies
    in the environment for one service is not sent to another."""

    resize: Resize = "contract"
    """`runtime`: images are sent as they are, for servers that resize as training did."""

    batch_size: int = 1
    """Conversations that transformers generates for at once."""


def open_trained(
    config: Config, setup: Path, train: Path, name: str, subject: str, batch_size: int
) -> Engine:
    """`base`, `adapter`, `adapter_off` or `full` of a training, held as it was in training (4-bit
    for qlora).
    """
    from vlmpipe.encoding.encoder import Encoder
    from vlmpipe.engines.hf import HfEngine
    from vlmpipe.evaluation.validation.subjects import load_as_trained, with_adapter
    from vlmpipe.models.base import read_base
    from vlmpipe.models.loading import load_tokenizer

    base = read_base(setup)
    model = load_as_trained(config, train / "model" if subject == "full" else base.folder)
    if subject.startswith("adapter"):
        model = with_adapter(model, train / "adapter")
    encoder = Encoder(load_tokenizer(base.folder), read_contract(train))
    adapter = subject != "adapter_off"
    return HfEngine(model, encoder, name, adapter=adapter, batch_size=batch_size)


def open_merged(config: Config, merge: Path, name: str, batch_size: int) -> Engine:
    """The merged folder, in the precision of `model.dtype`."""
    from vlmpipe.encoding.encoder import Encoder
    from vlmpipe.engines.hf import HfEngine
    from vlmpipe.models.loading import load_model, load_tokenizer, resolve_dtype

    model = load_model(
        merge / "model",
        dtype=resolve_dtype(config.model.dtype),
        quantization=None,
        attn_implementation=config.model.attn_implementation,
    )
    encoder = Encoder(load_tokenizer(merge / "model"), read_contract(merge))
    return HfEngine(model, encoder, name, batch_size=batch_size)


def open_gguf(
    config: Config, gguf: Path, mmproj: Path | None, contract: PreprocessContract, name: str
) -> Engine:
    """A GGUF pair in process, on the GPU where llama.cpp was built for one."""
    from vlmpipe.engines.llama_cpp import LlamaCppEngine
    from vlmpipe.system.llama_cpp import built_with_cuda

    layers = -1 if built_with_cuda() else 0
    return LlamaCppEngine(
        gguf,
        mmproj,
        contract,
        name=name,
        n_ctx=config.deploy.context_length,
        n_gpu_layers=layers,
    )


def open_openai(
    url: str, model: str | None, contract: PreprocessContract, name: str, asking: Asking
) -> Engine:
    """A model behind an OpenAI-compatible server."""
    from vlmpipe.engines.openai import OpenAIEngine

    return OpenAIEngine(
        url,
        model,
        contract,
        name=name,
        api_key=_key(asking.api_key_env),
        timeout_s=asking.timeout_s,
        retries=asking.retries,
        concurrency=asking.concurrency,
        resize=asking.resize,
    )


def _key(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        raise ConfigError(
            f"the environment variable {variable} is empty, and was to hold the server's key",
            f"set it: export {variable}=…, or leave --api-key-env out where no key is needed",
        )
    return os.environ[variable] if variable else None


def open_ollama(url: str, model: str, contract: PreprocessContract) -> Engine:
    """A model that an Ollama server has.

    Raises:
        ToolError: when no server answers there.
    """
    from vlmpipe.engines.ollama import OllamaEngine
    from vlmpipe.engines.ollama_api import OllamaApi

    api = OllamaApi(url)
    if api.version() is None:
        raise ToolError(
            f"no Ollama server answers at {url}",
            "start it: `ollama serve`, or say where it is: convert.ollama_url=http://HOST:11434",
        )
    return OllamaEngine(api, model, contract)
