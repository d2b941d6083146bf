"""What a name of an engine stands for in one run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.errors import ConfigError, VlmpipeError
from vlmpipe.evaluation.published import PublishedStage, departures, published_stages
from vlmpipe.evaluation.systems.local import hf_order, llama_cpp_order
from vlmpipe.evaluation.systems.opening import Asking
from vlmpipe.evaluation.systems.order import SystemOrder
from vlmpipe.evaluation.systems.run import Run
from vlmpipe.evaluation.systems.servers import ollama_order, openai_order

EXAMPLES = {
    "hf": "hf:adapter",
    "llama_cpp": "llama_cpp:q4_k_m",
    "openai": "openai:http://127.0.0.1:8000/v1",
    "ollama": "ollama:NAME",
}
"""Each kind of engine, as it may be named."""


class Systems:
    """What one run's published stages offer."""

    def __init__(
        self,
        config: Config,
        run_folder: Path,
        asking: Asking | None = None,
        *,
        stages: Mapping[str, PublishedStage] | None = None,
    ) -> None:
        """Read the manifests of the latest versions, unless others are given.

        Raises:
            ArtifactError: when one is damaged.
        """
        found = published_stages(run_folder) if stages is None else stages
        self._run = Run(config, run_folder, found)
        self._asking = asking or Asking()

    def orders(self, names: Sequence[str]) -> list[SystemOrder]:
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
            raise self._refusal(len(names), problems)
        return found

    def order(self, name: str) -> SystemOrder:
        """The order that one name stands for.

        Raises:
            VlmpipeError: when it stands for nothing in this run.
        """
        kind, _, subject = name.partition(":")
        run, asking = self._run, self._asking
        makers: Mapping[str, Callable[[], SystemOrder]] = {
            "hf": lambda: hf_order(run, asking, name, subject),
            "llama_cpp": lambda: llama_cpp_order(run, name, subject),
            "openai": lambda: openai_order(run, asking, name, subject),
            "ollama": lambda: ollama_order(run, name, subject),
        }
        if kind not in makers:
            close = difflib.get_close_matches(kind, makers, n=1)
            hint = f"; did you mean {close[0]}:{subject}?" if close else ""
            raise ConfigError(f"there is no kind of engine {kind!r}{hint}")
        if not subject:
            raise ConfigError(f"{kind} needs to know what to run, as in {EXAMPLES[kind]}")
        return makers[kind]()

    def offered(self) -> list[str]:
        """Names of what this run published itself."""
        stages = self._run.stages
        found = ["hf:base"] if {"setup", "train"} <= stages.keys() else []
        found += [f"hf:{self._run.trained}"] if "train" in stages else []
        found += ["hf:merged"] if "merge" in stages else []
        return found + [f"llama_cpp:{quant}" for quant in self._run.artifacts().get("quants", {})]

    def setup_folder(self) -> Path | None:
        """Where the prepared data lies, if setup was published."""
        setup = self._run.stages.get("setup")
        return setup.folder if setup else None

    def departures(self) -> list[str]:
        """Where a stage was made from another version of one before it than the one taken here."""
        return departures(self._run.stages)

    def _refusal(self, asked: int, problems: Sequence[str]) -> ConfigError:
        return ConfigError(
            f"{len(problems)} of {asked} engines cannot be asked"
            if problems
            else "no engine is named",
            f"this run has: --engines {','.join(self.offered()) or 'nothing yet'}",
            "servers are named by address: --engines openai:http://127.0.0.1:8000/v1,ollama:NAME",
            "make what is missing: `vlmpipe run-all` with the same options",
            problems=problems,
        )
