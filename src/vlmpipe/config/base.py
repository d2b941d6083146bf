"""What every configuration section has in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

GateMode = Literal["enforce", "report", "off"]
"""enforce: a failed verdict stops the consumer; report: it is shown; off: it is not computed."""


class Section(BaseModel):
    """A frozen section that rejects unknown keys; the text under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )
