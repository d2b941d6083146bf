"""A merged model converted, and whatever has to be converted to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.config.convert import ConvertConfig
from vlmpipe.data.store import load_split
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.export.gguf.file_set import GgufSet, Wanted, make_files
from vlmpipe.export.gguf.files import FOLDER, Converter, GgufNames
from vlmpipe.export.gguf.imatrix import IMATRIX_NAME, spread, write_imatrix
from vlmpipe.export.gguf.metadata import lineage_of_model, refuse_strange_mmproj
from vlmpipe.export.gguf.quants import known_quants, mmproj_quant
from vlmpipe.export.parity.climb import MergedModel
from vlmpipe.export.parity.control import CONTROL
from vlmpipe.export.parity.gguf_rungs import Opener, opener
from vlmpipe.export.parity.probes import ProbeSet, read_probes
from vlmpipe.export.parity.references import Trained
from vlmpipe.models.base import read_base
from vlmpipe.pipeline import StageContext
from vlmpipe.system.llama_cpp import LlamaCppSources, llama_cpp_sources
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class Types:
    """The types that are asked for, with llama.cpp's numbers of them."""

    text: Mapping[str, int]
    tower: tuple[str, int]


def asked_types(rules: ConvertConfig) -> Types:
    """The types of a configuration.

    Raises:
        ConfigError: for unknown types, and those that need an importance matrix and get none.
    """
    text = known_quants(rules.quants, imatrix=rules.imatrix)
    return Types(text, (rules.mmproj_type, mmproj_quant(rules.mmproj_type)))


@dataclass(frozen=True)
class Conversion:
    """One run of the stage: the merged model, what it is judged by, where the work is done."""

    context: StageContext
    config: Config
    types: Types
    sources: LlamaCppSources
    merged: MergedModel
    probes: ProbeSet

    @property
    def contract(self) -> PreprocessContract:
        """What every engine must do to its input."""
        return self.merged.trained.contract

    @property
    def model(self) -> Path:
        """The merged model's folder."""
        return self.merged.folder / "model"

    @property
    def primary(self) -> str:
        """The task metric's name."""
        return task_of(self.probes.samples[0].task).primary_metric

    def run(self) -> GgufSet:
        """Every file that is asked for, in the stage's folder."""
        folder = self.context.folder / FOLDER
        folder.mkdir()
        names = GgufNames(folder, self.config.run.name)
        tower = self.types.tower if self.contract.has_vision else None
        wanted = Wanted(self.types.text, tower, self._imatrix())
        made = make_files(self._converter(self.model, names), wanted, self.context.reporter)
        if made.mmproj:
            refuse_strange_mmproj(made.paths[made.base_type], made.mmproj)
        return made

    def control(self, folder: Path) -> Opener:
        """The base model converted in the same way into `folder`, and how to open it."""
        tower = ("f16", mmproj_quant("f16")) if self.contract.has_vision else None
        names = GgufNames(folder, CONTROL)
        converter = self._converter(self.merged.trained.base.folder, names, of_merged=False)
        made = make_files(converter, Wanted({}, tower), self.context.reporter)
        return opener({CONTROL: made.paths[made.base_type]}, made.mmproj, self.contract)

    @property
    def imatrix_path(self) -> Path | None:
        """The importance matrix, where one is asked for."""
        return self.context.folder / IMATRIX_NAME if self.config.convert.imatrix else None

    def _imatrix(self) -> Path | None:
        if self.imatrix_path is None:
            return None
        samples = load_split(self.context.upstream["setup"] / "data", "train")
        return write_imatrix(
            self.model,
            self.contract,
            spread(samples),
            self.imatrix_path,
            self.sources,
            log=self.context.log_path,
            reporter=self.context.reporter,
        )

    def _converter(self, model: Path, names: GgufNames, *, of_merged: bool = True) -> Converter:
        return Converter(
            self.sources,
            model,
            self.merged.trained.base.family,
            names,
            self.context.log_path,
            lineage=lineage_of_model(self.config.run.name, self.model) if of_merged else None,
            contract=self.contract,
        )


def conversion_of(context: StageContext) -> Conversion:
    """What there is to convert, from the folders upstream.

    Raises:
        ConfigError: for types that cannot be written.
        ArtifactError: when a folder upstream is damaged.
    """
    config: Config = context.config
    types, upstream = asked_types(config.convert), context.upstream
    contract = read_contract(upstream["merge"])
    trained = Trained(config, read_base(upstream["setup"]), upstream["train"], contract)
    return Conversion(
        context=context,
        config=config,
        types=types,
        sources=llama_cpp_sources(config.convert.llama_cpp_dir, context.reporter),
        merged=MergedModel(upstream["merge"], trained),
        probes=read_probes(upstream["merge"], upstream["setup"] / "data"),
    )
