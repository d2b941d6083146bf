"""What all configuration sections have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

GateMode = Literal["enforce", "report", "off"]
"""enforce: a failed verdict stops the consumer; report: it is shown and let through; off: it is
let through and only recorded."""


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as exc:
        raise ValueError("there is no such user's home folder") from exc


UserPath = Annotated[Path, AfterValidator(_expand_home)]
"""A path in which a leading `~` is the home folder: shells leave it alone after `key=`."""


QuantName = Annotated[str, StringConstraints(to_lower=True, min_length=1)]
"""A type of llama.cpp's quantiser. Guides write Q4_K_M, file names carry q4_k_m: both mean it."""


class Section(BaseModel):
    """A frozen section that rejects unknown keys; the text under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )
