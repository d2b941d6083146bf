"""What each stage left behind, as cards of the lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import read_contract
from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.published import PublishedStage

Stages = Mapping[str, PublishedStage]
SHORT = 12
"""Characters of a digest that are shown; the whole of it stands in the manifests."""


@dataclass(frozen=True)
class Artifact:
    """One card of the drawing."""

    title: str
    name: str
    facts: Sequence[str] = ()
    size_bytes: int | None = None
    digest: str = ""
    chosen: bool = False
    """The one that is served."""


def prepared(setup: PublishedStage, stages: Stages) -> list[Artifact]:
    """Base model and data."""
    model = _object(setup, "model.json")
    data = _object(setup, "data/data.json")
    found = []
    if model:
        found.append(
            Artifact(
                "base model",
                str(model.get("id", "")),
                [_parameters(model), f"revision {str(model.get('revision', ''))[:SHORT]}"],
                _size(setup, "model/") or None,
                _short(model.get("digest")),
            )
        )
    if data:
        counts = [
            f"{data[split]['samples']} {'training' if split == 'train' else 'held-out'} samples"
            for split in ("train", "heldout")
            if isinstance(data.get(split), dict) and "samples" in data[split]
        ]
        digest = _digest(setup, "data/train.parquet")
        found.append(Artifact("data", _tasks(data), counts, _size(setup, "data/") or None, digest))
    return found


def trained(train: PublishedStage, stages: Stages) -> list[Artifact]:
    """The adapter, or all weights, and the preprocess contract."""
    adapter = _digest(train, "adapter/adapter_model.safetensors")
    census = _object(train, "audit.json").get("census")
    trained = census.get("trained_parameters") if isinstance(census, dict) else None
    facts = [f"{trained / 1e6:.2g} M trained weights"] if isinstance(trained, int) else []
    base = _object(train, "adapter/base.json").get("quantization")
    if isinstance(base, dict) and base.get("type"):
        facts.append(f"on the base in {base['type']}")
    where = "adapter/" if adapter else "model/"
    found = []
    if adapter or _size(train, "model/"):
        found.append(
            Artifact(
                "adapter" if adapter else "trained weights",
                "LoRA" if adapter else "every weight",
                facts,
                _size(train, where) or None,
                adapter or _first_digest(train, "model/", ".safetensors"),
            )
        )
    contract = _contract(train.folder)
    if contract:
        found.append(Artifact("preprocess contract", "images and text", [], digest=contract))
    return found


def merged(merge: PublishedStage, stages: Stages) -> list[Artifact]:
    """Weights with the adapter folded in."""
    info = _object(merge, "merge_info.json")
    digests = info.get("digests")
    digest = digests.get("merged") if isinstance(digests, dict) else None
    if not info and not _size(merge, "model/"):
        return []
    facts = [f"{info['changed']} of {info['tensors']} tensors changed"] if _has(info) else []
    return [
        Artifact(
            "merged weights",
            str(info.get("dtype", "16 bit")),
            facts,
            _size(merge, "model/") or None,
            _short(digest) or _first_digest(merge, "model/", ".safetensors"),
        )
    ]


def converted(convert: PublishedStage, stages: Stages) -> list[Artifact]:
    """GGUF files, those that are served marked."""
    artifacts = _object(convert, "artifacts.json")
    quants = artifacts.get("quants")
    served = _object(stages["deploy"], "deploy.json").get("quant") if "deploy" in stages else None
    named = dict(quants) if isinstance(quants, dict) else {}
    files = [("GGUF", quant, name) for quant, name in named.items()]
    if artifacts.get("mmproj"):
        files.append(("vision GGUF", "mmproj", artifacts["mmproj"]))
    return [
        Artifact(
            title,
            quant,
            [],
            _size(convert, f"gguf/{name}") or None,
            _digest(convert, f"gguf/{name}"),
            chosen=quant == served or (quant == "mmproj" and served is not None),
        )
        for title, quant, name in files
    ]


def served(deploy: PublishedStage, stages: Stages) -> list[Artifact]:
    """The service, by the digest of the weights that it loads."""
    deployed = _object(deploy, "deploy.json")
    service = _object(deploy, "bundle/service.json")
    name = deployed.get("model_id") or service.get("model_id")
    if not name:
        return []
    facts = [f"context {service['n_ctx']} tokens"] if "n_ctx" in service else []
    contract = _contract(deploy.folder / "bundle")
    facts += [f"contract {contract}"] if contract else []
    weights = served_digest(deploy)
    size = _size(deploy, "bundle/") or None
    return [Artifact("service", str(name), facts, size, _short(weights), chosen=True)]


def served_digest(deploy: PublishedStage) -> str:
    """sha256 of the weights in the service's bundle; empty where it does not say."""
    service = _object(deploy, "bundle/service.json")
    return _file_digest(service, service.get("gguf"))


def _file_digest(service: Mapping[str, Any], name: Any) -> str:
    record = (service.get("files") or {}).get(name)
    return str(record.get("sha256", "")) if isinstance(record, dict) else ""


def _contract(folder: Path) -> str:
    """The digest that records and GGUF files name a contract by; empty where there is none."""
    try:
        return _short(read_contract(folder).digest)
    except ArtifactError:
        return ""


def _has(info: Mapping[str, Any]) -> bool:
    return "changed" in info and "tensors" in info


def _tasks(data: Mapping[str, Any]) -> str:
    train = data.get("train")
    tasks = train.get("tasks") if isinstance(train, dict) else None
    return ", ".join(tasks) if isinstance(tasks, dict) and tasks else "samples"


def _parameters(model: Mapping[str, Any]) -> str:
    count, family = model.get("parameters"), str(model.get("family", ""))
    if not isinstance(count, int):
        return family
    return f"{count / 1e9:.1f} G parameters" if count >= 1e9 else f"{count / 1e6:.1f} M parameters"


def _object(stage: PublishedStage, name: str) -> dict[str, Any]:
    value = stage.read_json(name)
    return value if isinstance(value, dict) else {}


def _size(stage: PublishedStage, prefix: str) -> int:
    outputs = stage.manifest.outputs
    return sum(record.size for path, record in outputs.items() if path.startswith(prefix))


def _digest(stage: PublishedStage, path: str) -> str:
    record = stage.manifest.outputs.get(path)
    return _short(record.sha256) if record else ""


def _first_digest(stage: PublishedStage, prefix: str, suffix: str) -> str:
    paths = [p for p in stage.manifest.outputs if p.startswith(prefix) and p.endswith(suffix)]
    return _digest(stage, paths[0]) if paths else ""


def _short(digest: Any) -> str:
    return str(digest)[:SHORT] if digest else ""
