"""Installed libraries against what this package declares, read from metadata alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement as Declared
from packaging.specifiers import SpecifierSet
from packaging.version import Version

PACKAGE = "vlmpipe"


@dataclass(frozen=True)
class Library:
    """A library that this package declares."""

    name: str
    specifier: str
    found: str | None
    """Installed version, None where there is none."""

    @property
    def fits(self) -> bool:
        """Whether the installed version is within the declared range."""
        return self.found is not None and within(self.found, self.specifier)


def installed(name: str) -> str | None:
    """Installed version of a distribution, None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def within(found: str, specifier: str) -> bool:
    """Whether a version lies in a range such as `>=2.9,<2.10`; a local part does not count."""
    return SpecifierSet(specifier, prereleases=True).contains(Version(found).public)


def declared_libraries(extras: Sequence[str]) -> list[Library]:
    """Libraries that this package needs for its base and for `extras`, by name."""
    environments: list[Mapping[str, str]] = [{"extra": extra} for extra in ("", *extras)]
    found: dict[str, Library] = {}
    for text in requires(PACKAGE) or ():
        declared = Declared(text)
        marker = declared.marker
        if marker is None or any(marker.evaluate(dict(each)) for each in environments):
            name = canonical(declared.name)
            found[name] = Library(name, str(declared.specifier), installed(name))
    return sorted(found.values(), key=lambda library: library.name)


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
