"""An audit that is interrupted says how to begin it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmpipe.cli import audit
from vlmpipe.errors import InterruptError


def test_an_interrupted_audit_tells_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back
    monkeypatch.setattr(audit, "_setup_folder", lambda *_: tmp_path)
    monkeypatch.setattr(audit, "_audited", interrupted)
    with pytest.raises(InterruptError) as caught:
        audit.app(args=["model", "run.name=here", "--json"], standalone_mode=False)
    assert "begin it again: vlmpipe audit model run.name=here --json" in caught.value.remedies
