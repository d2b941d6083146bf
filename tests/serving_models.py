"""Models converted to GGUF, and bundles made of them, as the engine and serving tests use them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlmpipe.encoding.contract import PreprocessContract, build_contract
from vlmpipe.export.gguf.files import Converter, GgufNames
from vlmpipe.models.embedded import build_embedded, embedded_model
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.serving.bundle import place_model
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.system.llama_cpp import llama_cpp_sources


@dataclass(frozen=True)
class Converted:
    """A transformers folder and the GGUF pair made of it."""

    name: str
    model: Path
    gguf: Path
    mmproj: Path | None
    contract: PreprocessContract


def small_contract(family: str) -> PreprocessContract:
    """A contract under small limits, without a system prompt."""
    return build_contract(
        FAMILIES[family],
        min_pixels=None,
        max_pixels=448 * 448,
        max_size=None,
        system_prompt=None,
        context_length=600,
    )


class Conversions:
    """Converts each embedded model at most once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.of = cache(self._convert)

    def _convert(self, name: str) -> Converted:
        family = FAMILIES[embedded_model(name).family]
        folder = self._folder / name
        build_embedded(name, folder / "model")
        converter = Converter(
            llama_cpp_sources(None, SilentReporter()),
            folder / "model",
            family,
            GgufNames(folder, name),
            folder / "convert.log",
        )
        return Converted(
            name=name,
            model=folder / "model",
            gguf=converter.convert("f16").path,
            mmproj=converter.convert("f16", mmproj=True).path if family.has_vision else None,
            contract=small_contract(family.name),
        )


def make_bundle(folder: Path, converted: Converted, **settings: object) -> ServiceSettings:
    """A bundle that can be served; returns its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    gguf, mmproj = place_model(folder, converted.gguf, converted.mmproj)
    converted.contract.write(folder)
    values = {
        "model_id": converted.gguf.stem,
        "gguf": gguf,
        "mmproj": mmproj,
        "has_vision": converted.contract.has_vision,
        "n_ctx": 1024,
        "n_threads": 1,
        "max_new_tokens": 64,
        "max_image_bytes": 200_000,
        "max_image_pixels": 4_000_000,
        "max_body_bytes": 1_000_000,
        "request_timeout_s": 120.0,
        **settings,
    }
    made = ServiceSettings.model_validate(values)
    made.write(folder)
    return made


def quantised(source: Path, target: Path) -> Path:
    """The same model in 4 bit."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), llama_cpp.ctypes.byref(params)
    )
    assert code == 0
    return target
