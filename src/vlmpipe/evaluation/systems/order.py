"""A system that can be opened, here or in another process, with what its records will say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlmpipe.engines.base import Engine, EngineType
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

    def identity(self, engine_version: str, *, max_new_tokens: int, seed: int) -> System:
        """What stands in each record."""
        return System(
            engine=self.name,
            model_name=self.model_name,
            engine_type=self.engine_type,
            engine_version=engine_version,
            lora_enabled=self.merge_state == "adapter",
            merge_state=self.merge_state,
            quantization=self.quantization,
            digests=dict(self.digests),
            sampling=Sampling(max_new_tokens=max_new_tokens),
            seed=seed,
            preprocess_contract=self.contract_digest,
        )
