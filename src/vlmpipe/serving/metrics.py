"""What the gateway counts, in Prometheus' form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SPEED = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Metrics:
    """One registry a gateway, so that several can live in one process."""

    def __init__(self, model_id: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered", ("route", "status"))
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens, image tokens included")
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated")
        self.images = self._counter("images", "Images accepted")
        self.refused = self._counter("refused", "Requests refused", ("code",))
        self.request_seconds = self._histogram("request_seconds", "Whole request", _SECONDS)
        self.first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "Prompt processing, images included", _SECONDS
        )
        self.speed = self._histogram(
            "generation_tokens_per_second", "Speed after the first token", _SPEED
        )
        self.running = self._gauge("requests_running", "Requests at the engine")
        self.waiting = self._gauge("requests_waiting", "Requests that wait for it")
        self.ready = self._gauge("ready", "1 when the model is loaded")
        self.restarts = self._gauge("worker_restarts", "Times the worker was started again")
        info = self._gauge("model_info", "The model served", ("model",))
        info.labels(model=model_id).set(1)

    def text(self) -> bytes:
        """The exposition that `/metrics` answers with."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"vlmpipe_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"vlmpipe_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vlmpipe_{name}", text, buckets=buckets, registry=self.registry)
