"""service.json: everything that a service needs to start, beside the files that it serves."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vlmpipe.encoding.contract import CONTRACT_NAME, PreprocessContract, read_contract
from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.files import why_unreadable
from vlmpipe.serving.digests import FileDigest, digest_problems, size_problems

SETTINGS_NAME = "service.json"
REMEDIES = (
    "make it again: `vlmpipe run-all --force deploy` with the same options",
    "or copy the whole bundle again from where it was made",
)


class ServiceSettings(BaseModel):
    """Written by deploy into the bundle; paths are relative to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_id: str
    """Name in `/v1/models`."""

    gguf: str
    mmproj: str | None = None
    contract_folder: str = "."
    has_vision: bool
    n_ctx: int = Field(ge=1)
    """Tokens that prompt and answer may take together."""

    n_threads: int = Field(ge=1)
    n_gpu_layers: int = Field(0, ge=-1)
    max_new_tokens: int = Field(512, ge=1)
    """Longest answer; a request may ask for less."""

    max_images: int = Field(8, ge=0)
    """Images in one request."""

    max_image_bytes: int = Field(20_000_000, ge=1)
    max_image_pixels: int = Field(50_000_000, ge=1)
    max_body_bytes: int = Field(32_000_000, ge=1024)
    max_queue: int = Field(16, ge=0)
    """Requests that may wait; one more is answered with 429."""

    request_timeout_s: float = Field(300.0, gt=0)
    """From a request's arrival to its last token, waiting included."""

    files: dict[str, FileDigest] = {}
    """What is loaded at the start: weights and contract, by their paths in the bundle."""

    @field_validator("gguf", "mmproj", "contract_folder")
    @classmethod
    def paths_stay_in_the_bundle(cls, path: str | None) -> str | None:
        """A bundle can be moved, and serves nothing that is not in it."""
        if path is not None and (PurePosixPath(path).is_absolute() or ".." in path.split("/")):
            raise ValueError("a path must lie inside the bundle")
        return path

    @property
    def loaded(self) -> tuple[str, ...]:
        """Paths of everything that an answer depends on."""
        contract = str(PurePosixPath(self.contract_folder) / CONTRACT_NAME)
        return (self.gguf, *([self.mmproj] if self.mmproj else []), contract)

    def sealed(self, bundle: Path) -> ServiceSettings:
        """The same settings with the digests of the bundle's files as they are now."""
        files = {name: FileDigest.of(bundle / name) for name in self.loaded}
        return self.model_copy(update={"files": files})

    def verify(self, bundle: Path) -> None:
        """Hash the files that will be loaded.

        Raises:
            ArtifactError: naming each that is not what was deployed.
        """
        _refuse(bundle, digest_problems(bundle, self.files))

    def contract(self, bundle: Path) -> PreprocessContract:
        """The preprocess contract of the served model.

        Raises:
            ArtifactError: when it cannot be read.
        """
        return read_contract(bundle / self.contract_folder)

    def write(self, bundle: Path) -> Path:
        """Write service.json into a bundle."""
        path = bundle / SETTINGS_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path


def read_settings(bundle: Path) -> ServiceSettings:
    """The settings of a bundle.

    Raises:
        ArtifactError: when there are none, they are damaged, or a file that they name is absent
            or of another size.
    """
    path = bundle / SETTINGS_NAME
    try:
        settings = ServiceSettings.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as service settings: {why_unreadable(exc)}",
            "give the folder that deploy wrote: --bundle DIR",
            "or make it again: `vlmpipe run-all --force deploy` with the same options",
        ) from exc
    named = [settings.gguf, *([settings.mmproj] if settings.mmproj else [])]
    absent = [name for name in named if not (bundle / name).is_file()]
    if absent:
        raise ArtifactError(f"the bundle {bundle} lacks {', '.join(absent)}", *REMEDIES)
    _refuse(bundle, size_problems(bundle, settings.files))
    return settings


def _refuse(bundle: Path, problems: list[str]) -> None:
    if problems:
        raise ArtifactError(
            f"the bundle {bundle} is not what was deployed", *REMEDIES, problems=problems
        )
