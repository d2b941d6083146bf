"""The largest micro-batch of each phase, tried before the run; refused with what would fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import StageError
from vlmpipe.training.dry_run.cases import Load, PhaseCase
from vlmpipe.training.dry_run.fit import MemoryFit, Trial
from vlmpipe.training.dry_run.measuring import Measuring
from vlmpipe.training.dry_run.memory import Room, room_of
from vlmpipe.training.dry_run.proposals import Bounds, Proposal, remedies

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class PhaseDryRun:
    """The worst step of one phase."""

    phase: str
    load: Load
    peak_bytes: int
    """That a step takes beside the model itself: activations, gradients, scratch."""

    optimizer_bytes: int
    free_bytes: int
    """Before the step."""

    def line(self) -> str:
        """For the person who watches."""
        return (
            f"phase {self.phase}: its largest batch ({_told(self.load)}) takes"
            f" {_size(self.peak_bytes)}, the optimiser {_size(self.optimizer_bytes)}, of"
            f" {_size(self.free_bytes)} free"
        )


@dataclass(frozen=True)
class DryRun:
    """The worst step of every phase."""

    phases: tuple[PhaseDryRun, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """One a phase, for the person who watches."""
        return [phase.line() for phase in self.phases]


def dry_run(
    model: Any,
    cases: Sequence[PhaseCase],
    config: TrainConfig,
    device: Any,
    room: Room | None = None,
) -> DryRun:
    """Do one step, without an update, on the worst micro-batch of each phase.

    Weights, optimiser, gradients and random generators are left as they were. On a CPU a batch that
    smaller ones foretell not to fit is not tried: the system would kill the process. `room` says
    what is free; unset, the device does.

    Raises:
        StageError: when one does not fit, with the largest batch and image size that would, from
            steps measured here.
    """
    import torch

    measurings = [Measuring(case, model, config, device, room or room_of(device)) for case in cases]
    careful = torch.device(device).type == "cpu"
    found = [_worst_step(each, careful=careful) for each in measurings]
    fitting = tuple(each for each in found if each is not None)
    if len(fitting) < len(found):
        raise _refusal(measurings, found, config)
    cases[0].enter()
    return DryRun(fitting)


def _worst_step(measuring: Measuring, *, careful: bool) -> PhaseDryRun | None:
    """None where a step does not fit, or will not by what smaller ones took."""
    case, free, worst = measuring.case, measuring.room(), []
    measuring.enter()
    for batch in case.worst():
        if careful and not measuring.foresees(batch):
            measuring.too_much.append(case.load_of(batch))
            return None
        if not measuring.fits(batch):
            return None
        worst.append(measuring.trials[-1])
    most = max(worst, key=lambda trial: trial.peak_bytes)
    return PhaseDryRun(case.phase.name, most.load, most.peak_bytes, measuring.reserve_bytes, free)


def _refusal(
    measurings: Sequence[Measuring], found: Sequence[PhaseDryRun | None], config: TrainConfig
) -> StageError:
    failed = [each for each, step in zip(measurings, found, strict=True) if step is None]
    proposals, problems = [], []
    for measuring in failed:
        measuring.enter()
        others = [trial for each in measurings for trial in _alike(each, measuring)]
        fit = measuring.fit(others)
        problems.append(_problem(measuring, fit))
        proposals.append(_proposal(measuring, fit))
    names = ", ".join(each.case.phase.name for each in failed)
    return StageError(
        f"the largest batch of phase {names} does not fit into the"
        f" {failed[0].room() / GIB:.1f} GiB that are free",
        *remedies(proposals, config),
        problems=problems,
    )


def _alike(other: Measuring, measuring: Measuring) -> list[Trial]:
    """Trials of another phase that trains the same parts: the same line runs through them."""
    same = other.case.phase.unfreeze == measuring.case.phase.unfreeze
    return other.trials if same and other is not measuring else []


def _proposal(measuring: Measuring, fit: MemoryFit | None) -> Proposal:
    if fit is None:
        return Proposal(measuring.case.phase.name, None, None, None, None)
    return Bounds(measuring.case, fit, measuring.limit).propose()


def _problem(measuring: Measuring, fit: MemoryFit | None) -> str:
    load = max(measuring.too_much, key=lambda load: load.places)
    text = f"phase {measuring.case.phase.name}: {_told(load)}"
    if fit is None:
        return f"{text}; no smaller batch of the phase could be measured"
    needed = (fit.predict(load) + measuring.reserve_bytes) / GIB
    measured = ", ".join(
        f"{trial.load.places} tokens {trial.peak_bytes / GIB:.2f} GiB"
        for trial in sorted(measuring.trials, key=lambda trial: trial.load.places)
    )
    return (
        f"{text} need about {needed:.2f} GiB, {measuring.reserve_bytes / GIB:.2f} of it for the"
        f" optimiser; a step takes {fit.base / GIB:.2f} GiB and {fit.per_place / MIB:.3f} MiB a"
        f" token, {fit.per_image_token / MIB:.3f} more for an image's (measured: {measured})"
    )


def _size(count: int) -> str:
    """In GiB, in MiB where that would be 0.0, in KiB where that would be."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        if count >= 0.1 * unit:
            return f"{count / unit:.{2 if count < unit else 1}f} {name}"
    return f"{count / 2**10:.1f} KiB"


def _told(load: Load) -> str:
    samples = "1 sample" if load.samples == 1 else f"{load.samples} samples"
    return f"{samples}, {load.places:,} tokens, {load.image_tokens:,} of them an image's"
