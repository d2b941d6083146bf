"""The ladder's lower part: the 16-bit GGUF file against the merged model, each quant against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmpipe.config.parity import BASE_TYPES, ParityConfig
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.engines.llama_cpp import ANSWER_ROOM, LlamaCppEngine
from vlmpipe.errors import StageError
from vlmpipe.export.parity.probes import ProbeSet
from vlmpipe.export.parity.records import RungRecord, compare, not_asked
from vlmpipe.export.parity.rung import Rung, Step, ask_rung
from vlmpipe.export.parity.speed import measure_speed
from vlmpipe.pipeline import Verdict
from vlmpipe.system.llama_cpp import built_with_cuda

RUNTIME_RESIZE = "runtime's resize"
Resize = Literal["contract", "runtime"]
Opener = Callable[[str, Resize], LlamaCppEngine]
"""Opens the engine of one type, under one resize."""


@dataclass(frozen=True)
class GgufRung:
    """One file's place on the ladder."""

    quant: str
    rung: Rung
    above: RungRecord
    """Against the rung above, with a limit."""

    adapter: RungRecord
    """Against the adapter, reported."""

    prompt_tokens_per_second: float
    answer_tokens_per_second: float

    @property
    def passed(self) -> bool:
        """Whether it may be served."""
        return self.above.passed

    @property
    def records(self) -> list[RungRecord]:
        """Both comparisons."""
        return [self.above, self.adapter]


@dataclass(frozen=True)
class Above:
    """The rungs that GGUF files are held against."""

    adapter: Rung
    merged: Rung


class LowerLadder:
    """Asks one file after another, the 16-bit one first."""

    def __init__(
        self,
        open_engine: Opener,
        above: Above,
        probes: ProbeSet,
        rules: ParityConfig,
        scratch: Path,
        step: Step = lambda: None,
    ) -> None:
        self._open = open_engine
        self._above = above
        self._probes = probes
        self._rules = rules
        self._scratch = scratch
        self._step = step
        self._base: Rung | None = None

    def climb(self, quant: str) -> GgufRung:
        """Ask one file, and hold it against the merged model, or the 16-bit file asked before."""
        with closing(self._open(quant, "contract")) as engine:
            rung = self._ask(engine, quant)
            prompt_speed, answer_speed = measure_speed(engine, self._probes.samples[0])
        reference = self._above.merged if self._base is None else self._base
        found = GgufRung(
            quant=quant,
            rung=rung,
            above=compare(reference, rung, self._rules.limit(quant)),
            adapter=compare(self._above.adapter, rung, None),
            prompt_tokens_per_second=prompt_speed,
            answer_tokens_per_second=answer_speed,
        )
        if self._base is None:
            self._base = rung
        else:
            rung.distributions.drop()
        return found

    def climb_runtime_resize(self, quant: str) -> RungRecord:
        """The same file given images as they are: what a client of the bare runtime would get."""
        name = f"{quant}, {RUNTIME_RESIZE}"
        with closing(self._open(quant, "runtime")) as engine:
            try:
                rung = self._ask(engine, name)
            except StageError as exc:
                # Only reported: a page that the runtime makes too large must not end the stage.
                return not_asked(name, self._above.merged, exc.message)
        record = compare(self._above.merged, rung, None)
        rung.distributions.drop()
        return record

    def _ask(self, engine: LlamaCppEngine, name: str) -> Rung:
        return ask_rung(
            engine,
            self._probes.samples,
            self._scratch,
            name=name,
            max_new_tokens=self._rules.max_new_tokens,
            step=self._step,
        )


def opener(files: Mapping[str, Path], mmproj: Path | None, contract: PreprocessContract) -> Opener:
    """Engines of converted files, on the GPU where llama.cpp was built for one.

    The runtime knows nothing of the contract's box: under its own resize a page may take as many
    tokens as the contract's pixels allow, and the context has room for one such.
    """
    layers = -1 if built_with_cuda() else 0
    contexts: dict[Resize, int] = {"contract": contract.context_length + ANSWER_ROOM}
    contexts["runtime"] = contexts["contract"] + contract.max_image_tokens

    def open_engine(quant: str, resize: Resize) -> LlamaCppEngine:
        return LlamaCppEngine(
            files[quant],
            mmproj,
            contract,
            name=f"llama_cpp:{quant}",
            n_ctx=contexts[resize],
            n_gpu_layers=layers,
            resize=resize,
        )

    return open_engine


def judge(rungs: Sequence[GgufRung], diagnosis: Mapping[str, Any] | None = None) -> Verdict:
    """The 16-bit file must be the merged model; quants are excluded by name, never all."""
    part = f"; first departs: {diagnosis['part']}" if diagnosis else ""
    base = [rung for rung in rungs if rung.quant in BASE_TYPES and not rung.passed]
    reasons = [
        f"{rung.quant}: {rung.above.why} (parity.max_kld.{rung.quant}){part}" for rung in base
    ]
    quants = [rung for rung in rungs if rung.quant not in BASE_TYPES]
    if quants and not any(rung.passed for rung in quants):
        names = ", ".join(f"{rung.quant} ({rung.above.why})" for rung in quants)
        reasons.append(f"no quant is left: {names}")
    return Verdict(not reasons, tuple(reasons))
