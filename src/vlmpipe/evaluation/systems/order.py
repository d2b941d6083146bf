"""A system that can be opened, here or in another process, with what its records will say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vlmpipe.engines.base import Engine, EngineType, Served
from vlmpipe.evaluation.records import MergeState, Sampling, System


@dataclass(frozen=True)
class SystemOrder:
    """A system before it is opened; `open` is a plain call with plain arguments."""

    name: str
    engine_type: EngineType
    model_name: str
    merge_state: MergeState
    quantization: str | None
    digests: Mapping[str, str]
    contract_digest: str
    open: Callable[[], Engine]
    image_resize: Literal["contract", "runtime"] = "contract"
    compute: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 1
    """How often the engine may ask for one answer, each time as long as one may take."""

    def identity(
        self,
        engine_version: str,
        *,
        max_new_tokens: int,
        seed: int,
        served: Served | None = None,
    ) -> System:
        """What stands in each record; `served` is what a server says of what it runs."""
        told = served or Served(self.model_name, self.digests, self.quantization)
        lora = None if self.merge_state == "unknown" else self.merge_state == "adapter"
        return System(
            engine=self.name,
            model_name=told.name,
            engine_type=self.engine_type,
            engine_version=engine_version,
            lora_enabled=lora,
            merge_state=self.merge_state,
            quantization=told.quantization,
            digests=dict(told.digests),
            sampling=Sampling(
                max_new_tokens=max_new_tokens,
                image_resize=self.image_resize,
                compute=dict(self.compute),
            ),
            seed=seed,
            preprocess_contract=self.contract_digest,
        )
