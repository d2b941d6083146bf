"""Section `convert`: GGUF, quantised sets, Ollama."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vlmpipe.config.base import GateMode, QuantName, Section, UserPath


class ConvertConfig(Section):
    """From merged weights to files that llama.cpp and Ollama load."""

    quants: tuple[QuantName, ...] = ("q4_k_m", "q5_k_m", "q8_0")
    """Quantised files to make: any type of llama.cpp's quantiser. f16 is always made first."""

    imatrix: bool = False
    """Measure on the training samples, images included, which weights matter most to the answers,
    and spend the quantised files' precision there. Types of about 2 bits cannot do without."""

    mmproj_type: QuantName = "f16"
    """Type of the vision tower's file: any but those of about 2 bits. The tower is small, and what
    an image shows suffers first; f16 becomes bf16 where a weight is too large for it."""

    llama_cpp_dir: UserPath | None = None
    """A llama.cpp checkout to convert with; unset: the sources of the installed llama-cpp-python,
    fetched once into the shared cache."""

    max_metric_loss: float = Field(0.02, ge=0)
    """How much of the merged model's task metric, on the probe set, the recommended file may lose:
    the smallest file within it is recommended, and is what deploy takes."""

    ollama_url: str = "http://127.0.0.1:11434"
    """Where an Ollama server may answer; the recommended file is then registered there."""

    ollama_name: str | None = None
    """Name in Ollama; unset: `<run.name>-finetune`."""

    vllm: Literal["fp8", "awq", "gptq"] | None = None
    """Also write a folder for vLLM, its language model quantised by llm-compressor: `fp8` (weights
    and activations in 8 bit, no calibration) or 4-bit weights, calibrated on training samples."""

    vllm_python: UserPath | None = None
    """The Python of an environment that has llm-compressor; unset: this one. It asks for other
    releases of transformers than this project is tested with, so one of its own is safer."""

    gate: GateMode = "enforce"
    """deploy refuses files whose verdict failed."""

    @field_validator("quants")
    @classmethod
    def quants_are_unique(cls, quants: tuple[str, ...]) -> tuple[str, ...]:
        """A type named twice would be written twice."""
        if len(set(quants)) != len(quants):
            raise ValueError("a quant type is named twice")
        if not quants:
            raise ValueError("name at least one quant type, e.g. q8_0")
        return quants
