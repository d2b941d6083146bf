"""The service bundle: the served files, their settings, and what others need to run them."""

from __future__ import annotations

import os
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vlmpipe.pipeline.files import write_json
from vlmpipe.serving.dashboard import dashboard
from vlmpipe.serving.example import ANY_IMAGE, curl_example
from vlmpipe.serving.settings import ServiceSettings

PORT = 8000
"""Inside a container; `vlmpipe serve` takes deploy.port."""

MODEL_FOLDER = "model"
DRAIN_MARGIN_S = 30
_SOURCES = files("vlmpipe.serving").joinpath("bundle_files")


def place_model(bundle: Path, gguf: Path, mmproj: Path | None) -> tuple[str, str | None]:
    """Put the served files into the bundle; their paths relative to it.

    Hard links where the file system has them, copies elsewhere: the bundle is whole by itself and
    can be moved, and takes no more room where it was made.
    """
    (bundle / MODEL_FOLDER).mkdir(parents=True, exist_ok=True)
    placed = [_place(bundle, path) for path in (gguf, *([mmproj] if mmproj else []))]
    return placed[0], placed[1] if mmproj else None


def _place(bundle: Path, path: Path) -> str:
    target = bundle / MODEL_FOLDER / path.name
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
    return f"{MODEL_FOLDER}/{path.name}"


def write_bundle(
    bundle: Path, settings: ServiceSettings, *, memory_mib: float, example: str
) -> None:
    """service.json and, beside it, everything that a container host or a dashboard reads.

    `memory_mib` is what the worker was seen to hold; `example` a question of the data.
    """
    settings.write(bundle)
    name = kubernetes_name(settings.model_id)
    write_yaml(bundle / "compose.yaml", compose(settings))
    write_yaml(bundle / "kubernetes.yaml", *kubernetes(settings, name, memory_mib))
    write_yaml(bundle / "prometheus.yml", prometheus())
    grafana = bundle / "grafana"
    write_json(grafana / "dashboard.json", dashboard(settings.model_id))
    write_yaml(grafana / "datasources.yaml", _datasource())
    write_yaml(grafana / "dashboards.yaml", _dashboard_provider())
    for source in ("Dockerfile", ".dockerignore"):
        text = _SOURCES.joinpath(source.lstrip(".")).read_text(encoding="utf-8")
        (bundle / source).write_text(text, encoding="utf-8")
    readme = _SOURCES.joinpath("README.md").read_text(encoding="utf-8")
    curl = curl_example(
        f"http://127.0.0.1:{PORT}", example, image=ANY_IMAGE if settings.has_vision else None
    )
    readme = readme.replace("@MODEL@", settings.model_id).replace("@CURL@", curl)
    readme = readme.replace("@NAME@", name)
    (bundle / "README.md").write_text(readme, encoding="utf-8")


def kubernetes_name(model_id: str) -> str:
    """A DNS label made of a model's name."""
    label = re.sub(r"[^a-z0-9]+", "-", model_id.lower()).strip("-")[:50].strip("-")
    return f"vlmpipe-{label}" if label else "vlmpipe"


def write_yaml(path: Path, *documents: dict[str, Any]) -> None:
    """YAML written by a library from plain values, so that no value can become syntax."""
    yaml = YAML()
    yaml.default_flow_style = False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump_all(documents, stream)


def compose(settings: ServiceSettings) -> dict[str, Any]:
    """The gateway, Prometheus and Grafana; only the loopback address is opened."""
    grace = int(settings.request_timeout_s) + DRAIN_MARGIN_S
    return {
        "services": {
            "gateway": {
                "build": {
                    "context": ".",
                    "additional_contexts": {
                        "vlmpipe": "${VLMPIPE_SOURCE:?set it to the path of a vlmpipe checkout}"
                    },
                },
                "ports": [f"127.0.0.1:{PORT}:{PORT}"],
                "read_only": True,
                "tmpfs": ["/tmp"],
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "stop_grace_period": f"{grace}s",
                "restart": "unless-stopped",
            },
            "prometheus": {
                "image": "prom/prometheus",
                "volumes": ["./prometheus.yml:/etc/prometheus/prometheus.yml:ro"],
                "depends_on": ["gateway"],
            },
            "grafana": {
                "image": "grafana/grafana",
                "ports": ["127.0.0.1:3000:3000"],
                "volumes": [
                    "./grafana/datasources.yaml:/etc/grafana/provisioning/datasources/own.yaml:ro",
                    "./grafana/dashboards.yaml:/etc/grafana/provisioning/dashboards/own.yaml:ro",
                    "./grafana/dashboard.json:/var/lib/grafana/dashboards/vlmpipe.json:ro",
                ],
                "depends_on": ["prometheus"],
            },
        }
    }


def kubernetes(
    settings: ServiceSettings, name: str, memory_mib: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Deployment and its Service; memory asked for is half as much again as was measured."""
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "vlmpipe"}
    pod = {
        "terminationGracePeriodSeconds": int(settings.request_timeout_s) + DRAIN_MARGIN_S,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001},
        "containers": [_container(settings, name, memory_mib)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": dict(labels),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }
    return deployment, service


def _container(settings: ServiceSettings, name: str, memory_mib: float) -> dict[str, Any]:
    memory = f"{int(memory_mib * 1.5) + 256}Mi"
    return {
        "name": "gateway",
        "image": f"{name}:latest",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": {**_probe("/health", 2), "failureThreshold": 300},
        "readinessProbe": _probe("/health", 5),
        "livenessProbe": _probe("/health/live", 10),
        "resources": {
            "requests": {"cpu": str(settings.n_threads), "memory": memory},
            "limits": {"memory": memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _probe(path: str, period_s: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": period_s}


def prometheus() -> dict[str, Any]:
    """Scrapes the gateway of compose.yaml."""
    return {
        "global": {"scrape_interval": "15s"},
        "scrape_configs": [
            {"job_name": "vlmpipe", "static_configs": [{"targets": [f"gateway:{PORT}"]}]}
        ],
    }


def _datasource() -> dict[str, Any]:
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "url": "http://prometheus:9090",
        "isDefault": True,
    }
    return {"apiVersion": 1, "datasources": [source]}


def _dashboard_provider() -> dict[str, Any]:
    options = {"path": "/var/lib/grafana/dashboards"}
    return {"apiVersion": 1, "providers": [{"name": "vlmpipe", "type": "file", "options": options}]}
