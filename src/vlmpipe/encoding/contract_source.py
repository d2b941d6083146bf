"""Where a preprocess contract lies: a file, a stage's version, a bundle, or a whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlmpipe.encoding.contract import CONTRACT_NAME, PreprocessContract, read_contract_file
from vlmpipe.errors import ArtifactError

BUNDLE = "bundle"
LATEST = "latest"


def find_contract(given: Path) -> PreprocessContract:
    """The contract that a path leads to.

    `given` is the file itself, or a folder that holds it: a bundle, a version of train, merge,
    convert or deploy, such a stage's folder (its `latest` is taken), or a run's folder.

    Raises:
        ArtifactError: when there is none, it cannot be read, or a run's stages disagree.
    """
    if given.is_file():
        return read_contract_file(given)
    own = next((path for path in _own(given) if path.is_file()), None)
    if own is not None:
        return read_contract_file(own)
    return _of_run(given)


def _own(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / LATEST):
        yield place / CONTRACT_NAME
        yield place / BUNDLE / CONTRACT_NAME


def _of_run(folder: Path) -> PreprocessContract:
    stages = sorted(path for path in folder.glob(f"*/{LATEST}") if path.is_dir())
    paths = [path for stage in stages for path in _own(stage) if path.is_file()]
    if not paths:
        what = f"holds no {CONTRACT_NAME}" if folder.exists() else "does not exist"
        raise ArtifactError(
            f"{folder} {what}",
            "give a run's folder, a stage's, a bundle, or the file itself: --contract PATH",
            "train writes it: `vlmpipe run-all --to train`",
        )
    contracts = {path: read_contract_file(path) for path in paths}
    if len({contract.digest for contract in contracts.values()}) > 1:
        raise ArtifactError(
            f"the stages of {folder} carry different contracts: one was published after the others",
            "bring them in line: `vlmpipe run-all` with the same options",
            "or name the one whose model is asked: --contract STAGE_FOLDER",
            problems=[f"{path}: {contract.digest[:12]}…" for path, contract in contracts.items()],
        )
    return next(iter(contracts.values()))
