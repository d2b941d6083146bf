"""A Grafana dashboard over the metrics that the gateway exports."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT = 8, 7
COLUMNS = 24 // WIDTH
_RATE = "[$__rate_interval]"


def dashboard(model_id: str) -> dict[str, Any]:
    """Dashboard JSON for Grafana's import or its file provisioning."""
    panels = [
        _panel(index, title, unit, queries)
        for index, (title, unit, queries) in enumerate(_panels())
    ]
    return {
        "uid": "vlmpipe-service",
        "title": f"vlmpipe: {model_id}",
        "tags": ["vlmpipe"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "panels": panels,
    }


def _panels() -> list[tuple[str, str, dict[str, str]]]:
    """Title, unit, and queries by legend."""
    return [
        ("Ready", "none", {"ready": "vlmpipe_ready", "restarts": "vlmpipe_worker_restarts"}),
        (
            "Requests a second",
            "reqps",
            {"{{route}} {{status}}": _by("route, status", "vlmpipe_requests_total")},
        ),
        (
            "Queue",
            "none",
            {"running": "vlmpipe_requests_running", "waiting": "vlmpipe_requests_waiting"},
        ),
        ("Latency", "s", _quantiles("vlmpipe_request_seconds")),
        ("Time to first token", "s", _quantiles("vlmpipe_time_to_first_token_seconds")),
        (
            "Tokens a second in an answer",
            "none",
            _quantiles("vlmpipe_generation_tokens_per_second"),
        ),
        (
            "Tokens",
            "none",
            {
                "prompt": f"rate(vlmpipe_prompt_tokens_total{_RATE})",
                "generated": f"rate(vlmpipe_generated_tokens_total{_RATE})",
            },
        ),
        ("Images", "none", {"images": f"rate(vlmpipe_images_total{_RATE})"}),
        (
            "Refused",
            "reqps",
            {"{{code}}": _by("code", "vlmpipe_refused_total")},
        ),
    ]


def _by(labels: str, name: str) -> str:
    return f"sum by ({labels}) (rate({name}{_RATE}))"


def _quantiles(name: str) -> dict[str, str]:
    return {
        f"p{share:.0%}".rstrip("%"): (
            f"histogram_quantile({share}, sum by (le) (rate({name}_bucket{_RATE})))"
        )
        for share in (0.5, 0.95)
    }


def _panel(index: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "prometheus"}
    place = {
        "x": (index % COLUMNS) * WIDTH,
        "y": (index // COLUMNS) * HEIGHT,
        "w": WIDTH,
        "h": HEIGHT,
    }
    targets = [
        {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend}
        for number, (legend, query) in enumerate(queries.items())
    ]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{**target, "datasource": source} for target in targets],
    }
