"""Section `convert`: GGUF, quantised sets, Ollama."""

from __future__ import annotations

from pydantic import Field, field_validator

from vlmpipe.config.base import GateMode, QuantName, Section, UserPath


class ConvertConfig(Section):
    """From merged weights to files that llama.cpp and Ollama load."""

    quants: tuple[QuantName, ...] = ("q4_k_m", "q5_k_m", "q8_0")
    """Quantised files to make: any type of llama.cpp's quantiser. f16 is always made first."""

    llama_cpp_dir: UserPath | None = None
    """A llama.cpp checkout to convert with; unset: the sources of the installed llama-cpp-python,
    fetched once into the shared cache."""

    probes: int = Field(3, ge=1)
    """Image questions asked of each file after it is made."""

    max_loss_drift: float = Field(0.5, ge=0)
    """Largest change of the probes' mean target loss, in nats a token, from the merged model to
    a quantised file; a file beyond it is excluded by name."""

    max_f16_loss_drift: float = Field(0.05, ge=0)
    """The same for the 16-bit file, which is the same weights: more than rounding means that the
    conversion, the image or the prompt is wrong, and fails the gate."""

    ollama_url: str = "http://127.0.0.1:11434"
    """Where an Ollama server may answer; the recommended file is then registered there."""

    ollama_name: str | None = None
    """Name in Ollama; unset: `<run.name>-finetune`."""

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
