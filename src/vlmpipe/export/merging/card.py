"""The model card: what the merged model is, what it was trained on, how it measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.export.parity.records import RungRecord
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.embedded import PREFIX


def render_card(
    *,
    run_name: str,
    base: BaseModelFolder,
    contract: PreprocessContract,
    data: Mapping[str, Any],
    metrics: Mapping[str, float],
    info: Mapping[str, Any],
    rungs: Sequence[RungRecord],
) -> str:
    """README.md of the merged folder.

    `data` is setup's summary of the samples, `metrics` those of validate, `info` merge_info.json,
    `rungs` what the merged model was held against.
    """
    environment = Environment(
        loader=PackageLoader("vlmpipe.export.merging"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, not HTML
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja").render(
        run_name=run_name,
        base=base,
        base_name=base_name(base),
        on_hub=is_hub_id(base.id),
        family_title=base.family.title,
        contract=contract,
        data=sorted(flat_facts(data).items()),
        metrics=sorted(metrics.items()),
        info=info,
        rungs=rungs,
    )


def is_hub_id(model_id: str) -> bool:
    """Whether `model.id` names a model on the hub, and not a folder or an embedded model."""
    looks_like_one = re.fullmatch(r"[\w.-]+/[\w.-]+", model_id) is not None
    return looks_like_one and not Path(model_id).expanduser().is_dir()


def base_name(base: BaseModelFolder) -> str:
    """The base model's name without the path of this machine."""
    if is_hub_id(base.id) or base.id.startswith(PREFIX):
        return base.id
    return base.folder.name


def flat_facts(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Scalars of a nested summary by dotted name, one line each; lists are left out."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flat_facts(value, f"{prefix}{key}."))
        elif isinstance(value, (str, int, float)):
            flat[f"{prefix}{key}"] = " ".join(str(value).split()).replace("|", "\\|")
    return flat


def read_summary(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
