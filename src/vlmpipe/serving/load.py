"""Latency and speed of a running service, by its own client's clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vlmpipe.errors import StageError
from vlmpipe.serving.probe import Probe

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class LoadResult:
    """Requests one after another, none in parallel."""

    requests: int
    latency_p50_s: float
    latency_p95_s: float
    first_token_p50_s: float
    tokens_per_second: float
    """Tokens generated after the first, over the time that they took, all requests together."""

    completion_tokens: int

    @property
    def as_record(self) -> dict[str, Any]:
        """For deploy.json."""
        return asdict(self)


def load_test(
    url: str,
    probes: Sequence[Probe],
    requests: int,
    *,
    timeout_s: float,
    progress: Callable[[int], None],
) -> LoadResult:
    """Send `requests` questions to `/chat`, going round the probes.

    Raises:
        StageError: when one is not answered.
    """
    import httpx

    latencies: list[float] = []
    answers: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=timeout_s) as client:
        for index in range(requests):
            started = time.perf_counter()
            answers.append(_ask(client, probes[index % len(probes)]))
            latencies.append(time.perf_counter() - started)
            progress(index + 1)
    return _summary(latencies, answers)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(math.ceil(share * len(ranked)), 1) - 1]


def _ask(client: httpx.Client, probe: Probe) -> dict[str, Any]:
    import httpx

    try:
        response = client.post("/chat", json=probe.chat_body)
    except httpx.HTTPError as exc:
        raise StageError(f"the load test got no answer: {type(exc).__name__}: {exc}") from exc
    if response.status_code != 200:
        raise StageError(
            f"the load test was answered with HTTP {response.status_code}: {response.text[:200]}"
        )
    content: dict[str, Any] = response.json()
    return content


def _summary(latencies: Sequence[float], answers: Sequence[dict[str, Any]]) -> LoadResult:
    timings = [answer["timings"] for answer in answers]
    tokens = [answer["usage"]["completion_tokens"] for answer in answers]
    generating = sum(each["total_seconds"] - each["first_token_seconds"] for each in timings)
    after_first = sum(count - 1 for count in tokens)
    return LoadResult(
        requests=len(latencies),
        latency_p50_s=round(percentile(latencies, 0.5), 6),
        latency_p95_s=round(percentile(latencies, 0.95), 6),
        first_token_p50_s=round(
            percentile([each["first_token_seconds"] for each in timings], 0.5), 6
        ),
        tokens_per_second=round(after_first / generating, 3) if generating > 0 else 0.0,
        completion_tokens=sum(tokens),
    )
