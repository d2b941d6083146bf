"""Stage 0: the machine against this configuration, before anything is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from vlmpipe.config import Config
from vlmpipe.config.convert import ConvertConfig
from vlmpipe.config.parity import BASE_TYPES
from vlmpipe.data.sources import refuse_unreadable
from vlmpipe.errors import CheckError, ConfigError
from vlmpipe.export.gguf.quants import known_quants, mmproj_quant
from vlmpipe.models.embedded import PREFIX, embedded_model
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.pipeline.files import write_json
from vlmpipe.system.llama_cpp import installed_version
from vlmpipe.system.probes import probe_machine
from vlmpipe.system.requirements import requirements_of
from vlmpipe.system.rows import Requirement

RESULT_NAME = "check.json"


def run(context: StageContext) -> Outcome:
    """Write every requirement with what was found into `check.json`.

    Raises:
        ConfigError: for a quant type that llama.cpp does not know, that needs an importance matrix
            and gets none, or that is served and not made, for a source or an embedded model that
            is not there: training must not come first.
        CheckError: listing all that is missing, each with its remedy.
    """
    refuse_unreadable(context.config.data.sources)
    if context.config.model.id.startswith(PREFIX):
        embedded_model(context.config.model.id.removeprefix(PREFIX))
    _refuse_unknown_quants(context.config)
    _refuse_unmade_quant(context.config)
    rows = requirements_of(context.config, probe_machine())
    write_json(context.folder / RESULT_NAME, {"requirements": [asdict(row) for row in rows]})
    for row in rows:
        context.log.info("%s: %s", row.status, row)
    missing = [row for row in rows if row.status == "missing"]
    if missing:
        raise _refusal(missing)
    return Outcome(metrics=_counts(rows), summary=_summary(rows))


def _refuse_unknown_quants(config: Config) -> None:
    """The shipped types need no asking; others cost llama.cpp's import."""
    shipped, convert = ConvertConfig(), config.convert
    others = {*convert.quants, convert.mmproj_type} - {*shipped.quants, shipped.mmproj_type}
    if others and installed_version():  # a row says so where it is missing
        known_quants(convert.quants, imatrix=convert.imatrix)
        mmproj_quant(convert.mmproj_type)


def _refuse_unmade_quant(config: Config) -> None:
    """16-bit files are made whatever `convert.quants` says."""
    served, made = config.deploy.quant, config.convert.quants
    if served is not None and served not in (*BASE_TYPES, *made):
        raise ConfigError(
            f"deploy.quant={served}: convert.quants does not make that type",
            f"choose one of them: deploy.quant={'|'.join(('f16', *made))}",
            f"or make it too: add {served!r} to convert.quants",
        )


def _refusal(missing: Sequence[Requirement]) -> CheckError:
    count = f"{len(missing)} thing{'s' if len(missing) > 1 else ''}"
    remedies = dict.fromkeys(f"{row.requirement}: {row.remedy}" for row in missing)
    return CheckError(
        f"this machine lacks {count} that this configuration requires",
        *remedies,
        problems=[str(row) for row in missing],
    )


def _counts(rows: Sequence[Requirement]) -> dict[str, float]:
    states = [row.status for row in rows]
    return {f"check/{state}": states.count(state) for state in ("ok", "advice", "missing")}


def _summary(rows: Sequence[Requirement]) -> tuple[str, ...]:
    advised = [row for row in rows if row.status == "advice"]
    state = f"{len(advised)} with advice" if advised else "all met"
    first = f"{len(rows)} requirements held against this machine, {state}"
    return (first, *(f"advice: {row} -> {row.remedy}" for row in advised))


CHECK = Stage(name="check", number=0, version=1, cached=False, run=run)
