"""The systems that can be asked, by name: what each consists of, and how it is opened.

`hf:base`, `hf:adapter`, `hf:adapter_off`, `hf:full`, `hf:merged`, `llama_cpp:QUANT`,
`openai:URL`, `openai:URL#MODEL`, `ollama:MODEL`. What a name stands for is looked up in the run's
published stages; opening is a plain function call with plain arguments, so that another process
can do it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.engines.base import Engine
from vlmpipe.errors import ArtifactError, ConfigError, VlmpipeError
from vlmpipe.evaluation import opening
from vlmpipe.evaluation.opening import Asking
from vlmpipe.evaluation.records import EngineType, MergeState, Sampling, System
from vlmpipe.evaluation.report.stages import PublishedStage, published_stages

KINDS: tuple[EngineType, ...] = ("hf", "llama_cpp", "openai", "ollama")
HF_SUBJECTS = ("base", "adapter", "adapter_off", "full", "merged")
ADAPTER_OFF = "adapter_off"
STATES: Mapping[str, MergeState] = {
    "base": "base",
    "adapter": "adapter",
    ADAPTER_OFF: "base",
    "full": "full",
}
WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class SystemOrder:
    """A system that can be opened, here or in another process."""

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


class Systems:
    """What one run's published stages offer."""

    def __init__(self, config: Config, run_folder: Path, asking: Asking | None = None) -> None:
        """Read the manifests.

        Raises:
            ArtifactError: when one is damaged.
        """
        self._config = config
        self._run = run_folder
        self._asking = asking or Asking()
        self.stages = published_stages(run_folder)

    def orders(self, names: list[str]) -> list[SystemOrder]:
        """One order for each name.

        Raises:
            ConfigError: with every name that stands for nothing here, and what there is.
        """
        found, problems = [], []
        for name in dict.fromkeys(names):
            try:
                found.append(self.order(name))
            except VlmpipeError as error:
                problems.append(f"{name}: {error.message}")
        if problems or not found:
            raise ConfigError(
                f"{len(problems)} of {len(names)} engines cannot be asked"
                if problems
                else "no engine is named",
                f"this run has: --engines {','.join(self.offered()) or 'nothing yet'}",
                "servers are named by address: --engines openai:http://127.0.0.1:8000/v1,ollama:NAME",
                "make what is missing: `vlmpipe run-all` with the same options",
                problems=problems,
            )
        return found

    def order(self, name: str) -> SystemOrder:
        """The order that one name stands for.

        Raises:
            VlmpipeError: when it stands for nothing in this run.
        """
        kind, _, subject = name.partition(":")
        makers: dict[str, Callable[[str, str], SystemOrder]] = {
            "hf": self._hf,
            "llama_cpp": self._llama_cpp,
            "openai": self._openai,
            "ollama": self._ollama,
        }
        if kind not in makers:
            close = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"; did you mean {close[0]}:{subject}?" if close else ""
            raise ConfigError(f"there is no kind of engine {kind!r}{hint}")
        if not subject:
            raise ConfigError(f"{kind} needs to know what to run, as in {EXAMPLES[kind]}")
        return makers[kind](name, subject)

    def offered(self) -> list[str]:
        """Names of what this run published itself."""
        found = ["hf:base"] if {"setup", "train"} <= self.stages.keys() else []
        if "train" in self.stages:
            found.append("hf:adapter" if self._has_adapter() else "hf:full")
        found += ["hf:merged"] if "merge" in self.stages else []
        return found + [f"llama_cpp:{quant}" for quant in self._artifacts().get("quants", {})]

    def setup_folder(self) -> Path | None:
        """Where the prepared data lies, if setup was published."""
        return self.stages["setup"].folder if "setup" in self.stages else None

    def _hf(self, name: str, subject: str) -> SystemOrder:
        if subject == "merged":
            merge = self._stage("merge")
            contract = read_contract(merge.folder)
            open_ = partial(
                opening.open_merged, self._config, merge.folder, name, self._asking.batch_size
            )
            digests = _weights(merge, "model/")
            return self._order(name, "hf", "merged", None, digests, contract, open_)
        if subject not in HF_SUBJECTS:
            near = difflib.get_close_matches(subject, HF_SUBJECTS, n=1)
            hint = f"; did you mean hf:{near[0]}?" if near else ""
            raise ConfigError(f"hf runs {', '.join(HF_SUBJECTS)}, not {subject!r}{hint}")
        return self._trained(name, subject)

    def _trained(self, name: str, subject: str) -> SystemOrder:
        """The base, or what was trained on it, held as in training."""
        setup, train = self._stage("setup"), self._stage("train")
        trained = "adapter" if self._has_adapter() else "full"
        if subject not in ("base", trained, *([ADAPTER_OFF] if trained == "adapter" else [])):
            raise ConfigError(f"this run trained {trained!r}: ask hf:{trained}")
        state = STATES[subject]
        qlora = self._config.train.method == "qlora"
        open_ = partial(
            opening.open_trained,
            self._config,
            setup.folder,
            train.folder,
            name,
            subject,
            self._asking.batch_size,
        )
        return self._order(
            name,
            "hf",
            state,
            self._config.train.quantization.type if qlora else None,
            self._trained_digests(subject),
            read_contract(train.folder),
            open_,
        )

    def _trained_digests(self, subject: str) -> dict[str, str]:
        """Of the base, unless all its weights were trained, and of what training added."""
        setup, train = self._stage("setup"), self._stage("train")
        found = {}
        if subject != "full":
            stated = str((setup.read_json("model.json") or {}).get("digest", ""))
            found = _weights(setup, "model/") or {"base": stated}
        if subject != "base":
            found |= _weights(train, "model/" if subject == "full" else "adapter/")
        return found

    def _llama_cpp(self, name: str, quant: str) -> SystemOrder:
        convert = self._stage("convert")
        artifacts = self._artifacts()
        files: dict[str, str] = artifacts.get("quants", {})
        if quant not in files:
            near = difflib.get_close_matches(quant, files, n=1)
            hint = f"; did you mean llama_cpp:{near[0]}?" if near else ""
            raise ConfigError(f"convert made {', '.join(files) or 'no file'}, not {quant!r}{hint}")
        names = [files[quant], *([artifacts["mmproj"]] if artifacts.get("mmproj") else [])]
        digests = {
            Path(path).name: record.sha256
            for path, record in convert.manifest.outputs.items()
            if Path(path).name in names
        }
        gguf, *mmproj = [convert.folder / "gguf" / each for each in names]
        contract = read_contract(convert.folder)
        mmproj_file = mmproj[0] if mmproj else None
        open_ = partial(opening.open_gguf, self._config, gguf, mmproj_file, contract, name)
        return self._order(name, "llama_cpp", "merged", quant, digests, contract, open_)

    def _openai(self, name: str, address: str) -> SystemOrder:
        url, _, model = address.partition("#")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address: openai:http://HOST:PORT/v1")
        contract = self._served_contract()
        open_ = partial(opening.open_openai, url, model or None, contract, name, self._asking)
        return self._order(name, "openai", "unknown", None, {}, contract, open_, model or url)

    def _ollama(self, name: str, model: str) -> SystemOrder:
        contract = self._served_contract()
        open_ = partial(opening.open_ollama, self._config.convert.ollama_url, model, contract)
        return self._order(name, "ollama", "unknown", None, {}, contract, open_, model)

    def _order(
        self,
        name: str,
        kind: EngineType,
        state: MergeState,
        quantization: str | None,
        digests: Mapping[str, str],
        contract: PreprocessContract,
        open_: Callable[[], Engine],
        model_name: str | None = None,
    ) -> SystemOrder:
        return SystemOrder(
            name=name,
            engine_type=kind,
            model_name=model_name or self._model_name(state),
            merge_state=state,
            quantization=quantization,
            digests=digests,
            contract_digest=contract.digest,
            open=open_,
        )

    def _model_name(self, state: MergeState) -> str:
        """The base's id, or the run's name for what came of it."""
        base = str((self._stage("setup").read_json("model.json") or {}).get("id", "base"))
        return base if state == "base" else f"{self._config.run.name}-finetune"

    def _served_contract(self) -> PreprocessContract:
        """That of the stage furthest on: what a server was made from."""
        for stage in ("convert", "merge", "train"):
            if stage in self.stages:
                return read_contract(self.stages[stage].folder)
        raise ArtifactError("the run has no preprocess contract yet; train writes it")

    def _stage(self, name: str) -> PublishedStage:
        if name not in self.stages:
            raise ArtifactError(f"the run {self._run} has not published {name}")
        return self.stages[name]

    def _has_adapter(self) -> bool:
        return (self._stage("train").folder / "adapter").is_dir()

    def _artifacts(self) -> dict[str, Any]:
        found = (
            self.stages["convert"].read_json("artifacts.json") if "convert" in self.stages else {}
        )
        return found if isinstance(found, dict) else {}


EXAMPLES = {
    "hf": "hf:adapter",
    "llama_cpp": "llama_cpp:q4_k_m",
    "openai": "openai:http://127.0.0.1:8000/v1",
    "ollama": "ollama:NAME",
}


def _weights(stage: PublishedStage, folder: str) -> dict[str, str]:
    """sha256 of a stage's weight files under one of its folders."""
    return {
        path: record.sha256
        for path, record in stage.manifest.outputs.items()
        if path.startswith(folder) and path.endswith(WEIGHTS)
    }
