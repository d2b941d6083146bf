"""The cache of a training: filled before a phase, looked up in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmpipe.config import Config
from vlmpipe.config.train import ResizeKernel
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.system.cache import cache_folder
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.vision_cache.features import ImageFeatures, compute_features
from vlmpipe.training.vision_cache.jobs import (
    Job,
    SampleBook,
    pixels_of,
    prepared_ahead,
)
from vlmpipe.training.vision_cache.namespace import Namespace, namespace_of
from vlmpipe.training.vision_cache.space import (
    StoreKind,
    bytes_of_features,
    refuse_without_space,
)
from vlmpipe.training.vision_cache.stores import DiskStore, FeatureStore, MemoryStore
from vlmpipe.training.vision_cache.tower import TowerPlace, refuse_trained_tower

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class FillCounts:
    """What a fill found and did, in this process."""

    hits: int = 0
    """Images whose features were kept already, hashes verified; not those that this training itself
    computed before the fill."""

    computed: int = 0
    bytes: int = 0
    """That the computed ones take in the store."""

    def plus(self, other: FillCounts) -> FillCounts:
        """Both together."""
        return FillCounts(
            self.hits + other.hits, self.computed + other.computed, self.bytes + other.bytes
        )


@dataclass(frozen=True)
class Share:
    """Which part of a fill is this process's, where several fill together."""

    rank: int = 0
    processes: int = 1
    local_processes: int = 1
    """On this machine, sharing its memory."""

    barrier: Callable[[], None] = lambda: None
    """Returns when all processes have called it."""


class VisionCache:
    """Features of the training images, by sample.

    `autocast_dtype` is what the trainer casts to, None where it casts nothing: features are those
    of a live training bit for bit, and `proof.prove_cached_equals_live` holds them to it.
    """

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        samples: Sequence[Sample],
        kind: StoreKind,
        folder: Path,
        autocast_dtype: torch.dtype | None,
        reporter: Reporter,
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.kind = kind
        self.folder = folder
        self.autocast_dtype = autocast_dtype
        self.tower = TowerPlace(model)
        self.filled: tuple[Job, ...] = ()
        """What the last fill made sure of, for this process's rows."""

        self._reporter = reporter
        self._book = SampleBook(samples)
        self._namespace: Namespace | None = None
        self._store: FeatureStore | None = None
        self._verified: set[bytes] = set()
        self._mended: dict[bytes, int] = {}
        """Bytes of what was computed outside of a fill, by proofs say, and that no fill has told.
        """

    def fill(
        self,
        rows: Iterable[Row],
        grid: ImageGrid,
        lot: KernelLot,
        phase: int,
        *,
        own_rows: Iterable[Row] | None = None,
        share: Share | None = None,
        label: str = "",
    ) -> FillCounts:
        """Compute what is missing for `rows`: all rows of a phase, muted ones too.

        `lot` draws the kernels of phase number `phase`, anew in each pass; `label` names the phase
        to people.

        With several processes each computes its share, and on a disk all see all afterwards; in
        memory each computes what its `own_rows` need. Unset, all rows are its own.

        Raises:
            ConfigError: where a part of the tower is trained.
            BadSamplesError: when an image cannot be decoded.
            StageError: when the features would not fit, or cannot be written.
        """
        share, rows = share or Share(), list(rows)
        refuse_trained_tower(self.model, self.kind)
        name = f"vision features {label}".strip()
        with self.tower.present():
            self._open()
            own = self._book.jobs_of(rows if own_rows is None else own_rows, grid, lot, phase)
            work = own if self.kind == "memory" else self._share_of(rows, grid, lot, phase, share)
            counts = self._fill(work, share, name)
            share.barrier()
            self.store.refresh()
            done = {job.key for job in work}
            # Of the others' share: verified, and computed where they could not, for this kind of
            # device say.
            rest = [job for job in own if job.key not in done]
            counts = counts.plus(self._fill(rest, Share(), name))
        self.filled = tuple(own)
        self._tell(counts)
        return counts

    def features_for(
        self, sample_index: int, grid: ImageGrid, kernels: Sequence[ResizeKernel] = ()
    ) -> list[ImageFeatures]:
        """Features of a sample's images, in RAM, in order; no image is decoded.

        What turns out damaged since the fill is computed anew.

        Raises:
            StageError: for that in a worker process of a data loader, which has no tower.
        """
        jobs = self._book.jobs(sample_index, grid, kernels)
        return [self.stored(job) or self._mend(job) for job in jobs]

    @property
    def store(self) -> FeatureStore:
        """Where the features are; opened by the first fill."""
        return self._open() if self._store is None else self._store

    @property
    def place(self) -> str:
        """Where the features are, for messages."""
        return str(self.store.folder) if isinstance(self.store, DiskStore) else "memory"

    def stored(self, job: Job) -> ImageFeatures | None:
        """What the store holds for an image, None where that cannot be trusted."""
        found = self.store.get(job.key.digest)
        for fault in self.store.take_faults():
            self._reporter.note(f"vision cache: {fault}; computed anew")
        return found

    def image(self, job: Job) -> Image.Image:
        """The image of a job, in its original size."""
        return self._book.image(job)

    def computed(self, job: Job) -> ImageFeatures:
        """What the tower makes of an image now, in RAM.

        Raises:
            BadSamplesError: when the image cannot be decoded.
        """
        [(_, image)] = prepared_ahead([job], self._book, threads=1)
        return self._features(job, image).cpu()

    def _open(self) -> FeatureStore:
        """The store of the tower as it stands: a phase may have trained it since."""
        with self.tower.present():
            namespace = namespace_of(self.model, self.encoder.contract, self.autocast_dtype)
        if self._store is None or namespace != self._namespace:
            self._namespace, self._verified = namespace, set()
            memory = self.kind == "memory"
            self._store = MemoryStore() if memory else DiskStore(self.folder, namespace)
        self._store.refresh()
        return self._store

    def _share_of(
        self, rows: Sequence[Row], grid: ImageGrid, lot: KernelLot, phase: int, share: Share
    ) -> list[Job]:
        """By sample, so that each image is looked at in one process."""
        samples = sorted({row.sample for row in rows})
        mine = set(samples[share.rank :: share.processes])
        return self._book.jobs_of([row for row in rows if row.sample in mine], grid, lot, phase)

    def _fill(self, jobs: Sequence[Job], share: Share, label: str) -> FillCounts:
        missing = self._missing(jobs, label)
        tokens = [job.key.tokens for job in missing]
        needed = bytes_of_features(self.model, tokens, self.autocast_dtype)
        # Shares are drawn alike: this one's stands for the others'.
        times = share.local_processes if self.kind == "memory" else share.processes
        refuse_without_space(self.kind, self.folder, needed * times, len(missing) * times)
        computed = FillCounts()
        for job, image in prepared_ahead(missing, self._book):
            size = self._compute_and_keep(job, image)
            computed = computed.plus(FillCounts(computed=1, bytes=size))
            self._reporter.progress(label, computed.computed, len(missing))
        self.store.flush()
        self._reporter.progress_done()
        return self._found(jobs, missing).plus(computed)

    def _found(self, jobs: Sequence[Job], missing: Sequence[Job]) -> FillCounts:
        """What needs no computing: an earlier training's, or computed by this one just before."""
        kept = {job.key.digest for job in jobs} - {job.key.digest for job in missing}
        own = [self._mended.pop(digest) for digest in kept & self._mended.keys()]
        return FillCounts(len(jobs) - len(missing) - len(own), len(own), sum(own))

    def _missing(self, jobs: Sequence[Job], label: str) -> list[Job]:
        """Jobs whose features are not kept, or not as they were written."""
        missing: list[Job] = []
        for done, job in enumerate(jobs, 1):
            if not self._is_kept(job):
                missing.append(job)
            self._reporter.progress(f"{label}: looked up", done, len(jobs))
        self._reporter.progress_done()
        return missing

    def _compute_and_keep(self, job: Job, image: Image.Image) -> int:
        features = self._features(job, image)
        size = self.store.put(job.key.digest, features)
        self._verified.add(job.key.digest)
        return size

    def _is_kept(self, job: Job) -> bool:
        if job.key.digest not in self._verified and self.stored(job) is not None:
            self._verified.add(job.key.digest)
        return job.key.digest in self._verified

    def _features(self, job: Job, image: Image.Image) -> ImageFeatures:
        import torch

        pixels, grid = pixels_of(self.encoder, image)
        try:
            features = compute_features(self.model, pixels, grid, self.autocast_dtype)
        except torch.OutOfMemoryError as exc:
            raise StageError(
                f"the vision tower runs out of memory on an image of {job.key.tokens} tokens, of"
                f" sample {job.name}",
                "make images smaller: a smaller `max_size` in train.curriculum",
            ) from exc
        if len(features.tokens) != job.key.tokens:
            raise StageError(
                f"an image of sample {job.name} gives {len(features.tokens)} image tokens where its"
                f" header gives {job.key.tokens}",
                "prepare the data again: `vlmpipe run-all --force setup` with the same options",
            )
        return features

    def _mend(self, job: Job) -> ImageFeatures:
        import torch

        if torch.utils.data.get_worker_info() is not None:
            raise StageError(
                f"the features of an image of sample {job.name} were damaged in mid-training",
                "run the same command again: it goes on from the last checkpoint, and computes"
                " them anew",
            )
        with self.tower.present():
            features = self.computed(job)
        self._mended[job.key.digest] = self.store.put(job.key.digest, features)
        return features

    def _tell(self, counts: FillCounts) -> None:
        self._reporter.note(
            f"vision cache: features of {counts.hits:,} images found, of {counts.computed:,}"
            f" computed ({counts.bytes / 1e6:,.1f} MB), in {self.place}"
        )


def open_vision_cache(
    config: Config,
    model: Any,
    encoder: Encoder,
    samples: Sequence[Sample],
    autocast_dtype: torch.dtype | None,
    reporter: Reporter,
) -> VisionCache | None:
    """The cache that `train.vision_cache` asks for, None for `off` and for text-only models."""
    kind = config.train.vision_cache
    if kind == "off" or not encoder.contract.has_vision:
        return None
    folder = config.train.vision_cache_folder or cache_folder() / "vision"
    return VisionCache(model, encoder, samples, kind, folder, autocast_dtype, reporter)
