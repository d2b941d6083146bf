"""Section `deploy`: the served endpoint."""

from __future__ import annotations

from pydantic import Field

from vlmpipe.config.base import GateMode, QuantName, Section


class DeployConfig(Section):
    """The gateway and the engine behind it."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the service to the network."""

    port: int = Field(8000, ge=0, le=65535)
    """Port of `vlmpipe serve`. The deploy stage itself tests on a free port of its own."""

    quant: QuantName | None = None
    """Which of the converted files is served (`q8_0`, or `f16`); unset: the one that convert
    recommends."""

    context_length: int | None = Field(None, ge=256)
    """Tokens that the engine holds; unset: what the data needs, from the preprocess contract."""

    threads: int | None = Field(None, ge=1)
    """CPU threads of the engine; unset: the fastest of those measured."""

    n_gpu_layers: int | None = Field(None, ge=-1)
    """Layers on the GPU, -1 for all; unset: all where llama.cpp was built with CUDA, else 0."""

    max_new_tokens: int = Field(512, ge=1)
    """Longest answer; a request may ask for less."""

    max_image_bytes: int = Field(20_000_000, ge=1024)
    """Largest image accepted, as decoded from base64."""

    max_image_pixels: int = Field(50_000_000, ge=28 * 28, le=178_956_970)
    """Largest picture accepted, decided from its header."""

    startup_timeout_s: float = Field(120.0, gt=0)
    """How long the service may take to load the model before deploy gives up."""

    request_timeout_s: float = Field(300.0, gt=0)
    """How long one answer may take, waiting included; a slower one is ended with an error."""

    load_requests: int = Field(8, ge=1)
    """Requests of the load test."""

    parity_probes: int = Field(8, ge=1)
    """Samples of the probe set that are asked of the service and of the same files in process."""

    min_exact_match: float = Field(1.0, ge=0.0, le=1.0)
    """Smallest share of their answers that must be equal, word for word. The arithmetic is the same
    on both sides; how far probabilities may lie off is `parity.max_kld`, key `served`."""

    gate: GateMode = "enforce"
    """Verdict on the service itself: every smoke test answered, and the model in it the one that
    was converted."""
