"""The images that rows of a plan show, each once, and their pixels made ready for the tower."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image

from vlmpipe.config.train import ResizeKernel
from vlmpipe.data.images import decode_png
from vlmpipe.data.store import origin_of
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import BadSamplesError, VlmpipeError
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.vision_cache.keys import (
    FeatureKey,
    Picture,
    StoredPictures,
    feature_key,
    pictures_of,
)

if TYPE_CHECKING:
    import torch

THREADS = min(4, os.cpu_count() or 1)
"""That decode and resize; Pillow lets other threads run meanwhile."""


@dataclass(frozen=True)
class Job:
    """One image on one grid by one kernel."""

    sample: int
    place: int
    """Of the image in the sample."""

    grid: ImageGrid
    kernel: ResizeKernel
    key: FeatureKey
    name: str
    """Of the sample: its id and origin, for messages."""


@dataclass(frozen=True)
class KnownSample:
    """What is kept of a sample, so that its images need not be decoded again."""

    id: str
    name: str
    pictures: tuple[Picture, ...]


class SampleBook:
    """Samples as the cache knows them, each looked at once."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._known: dict[int, KnownSample] = {}

    def known(self, index: int) -> KnownSample:
        """A sample's id and its images' identities.

        Raises:
            BadSamplesError: when an image cannot be decoded.
        """
        if index not in self._known:
            with naming(lambda: self._origin(index)):
                sample = self._samples[index]
                name = f"{sample.id} ({sample.origin})"
            with naming(lambda: name):
                pictures = tuple(pictures_of(self._samples, index, sample.images))
            self._known[index] = KnownSample(sample.id, name, pictures)
        return self._known[index]

    def image(self, job: Job) -> Image.Image:
        """The image of a job, in its original size."""
        with naming(lambda: job.name):
            if isinstance(self._samples, StoredPictures):
                # Read here and now: the threads that decode would each read where they are.
                return decode_png(self._samples.pictures(job.sample)[job.place])
            return self._samples[job.sample].images[job.place]

    def jobs(self, index: int, grid: ImageGrid, kernels: Sequence[ResizeKernel]) -> list[Job]:
        """The images of a sample, in order; by PIL bicubic where no kernels are given.

        Raises:
            BadSamplesError: when an image cannot be used.
        """
        known = self.known(index)
        chosen: Sequence[ResizeKernel] = kernels or ["bicubic"] * len(known.pictures)
        with naming(lambda: known.name):
            return [
                Job(index, place, grid, kernel, feature_key(picture, grid, kernel), known.name)
                for place, (picture, kernel) in enumerate(zip(known.pictures, chosen, strict=True))
            ]

    def jobs_of(
        self, rows: Iterable[Row], grid: ImageGrid, lot: KernelLot, phase: int
    ) -> list[Job]:
        """All that rows show, ordered by sample, images that are the same once.

        Raises:
            BadSamplesError: when an image cannot be used.
        """
        passes: dict[int, set[int]] = {}
        for row in rows:
            passes.setdefault(row.sample, set()).add(row.epoch)
        found: dict[bytes, Job] = {}
        for index in sorted(passes):
            known = self.known(index)
            places = range(len(known.pictures))
            for epoch in sorted(passes[index]):
                kernels = [lot.draw(known.id, phase, epoch, place) for place in places]
                for job in self.jobs(index, grid, kernels):
                    found.setdefault(job.key.digest, job)
        return list(found.values())

    def _origin(self, index: int) -> str:
        """What names a sample that cannot even be read."""
        origin = origin_of(self._samples, index)
        return f"{index} ({origin})" if origin else str(index)


@contextmanager
def naming(sample: Callable[[], str]) -> Iterator[None]:
    """Names the sample whose image cannot be used."""
    try:
        yield
    except (VlmpipeError, MemoryError):
        raise
    # Pillow's decoders raise nearly everything on damaged files; each means a bad image.
    except Exception as exc:
        raise BadSamplesError(
            f"an image of training sample {sample()} cannot be used: {exc or type(exc).__name__}",
            "mend or remove it in the data's source, then prepare the data again:"
            " `vlmpipe run-all --force setup` with the same options",
        ) from exc


def prepared_ahead(
    jobs: Iterable[Job], book: SampleBook, threads: int = THREADS
) -> Iterator[tuple[Job, Image.Image]]:
    """Jobs with their images on their grids, a few decoded and resized ahead by other threads.

    Samples are read by the calling thread alone, in order: a row group is read once so.

    Raises:
        BadSamplesError: when an image cannot be decoded.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Job, Future[Image.Image]]] = deque()
        for job in jobs:
            waiting.append((job, pool.submit(_prepared, job, book.image(job))))
            if len(waiting) > 2 * threads:
                done, image = waiting.popleft()
                yield done, image.result()
        while waiting:
            done, image = waiting.popleft()
            yield done, image.result()


def pixels_of(encoder: Encoder, prepared: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    """pixel_values [P, D] and grid_thw [1, 3] of an image that is on its grid."""
    import torch

    area = prepared.width * prepared.height
    as_it_is = replace(encoder.contract.grid, max_size=None, min_pixels=area, max_pixels=area)
    encoded = encoder.encode_sample((Message("user", (prepared,)),), grid=as_it_is)
    return torch.as_tensor(encoded.pixel_values), torch.as_tensor(encoded.image_grid_thw)


def _prepared(job: Job, image: Image.Image) -> Image.Image:
    with naming(lambda: job.name):
        return job.grid.prepare(image, job.kernel)
