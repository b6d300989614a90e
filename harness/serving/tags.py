"""Names in a model store, ``name:version``, as BentoML has them: they become paths, so only harmless ones are."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import UsageError

_PART = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")
LATEST = "latest"


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A model's name and its version; without one, or with ``latest``, the newest is meant.

    Capital letters become small, as in BentoML. Raises `UsageError` for what is no tag.
    """

    name: str
    version: str | None = None

    def __post_init__(self) -> None:
        for part in (self.name, *(() if self.version is None else (self.version,))):
            if not _PART.fullmatch(part):
                cure = "Small letters, digits, '-', '_' and '.', at most 63, a letter or digit at both ends."
                raise UsageError(f"{part!r} cannot be the name or version of a model", cure)

    @classmethod
    def read(cls, text: str) -> Tag:
        """The tag of ``name`` or ``name:version``."""
        name, colon, version = text.lower().partition(":")
        if colon and not version:
            raise UsageError(f"{text!r} ends in a colon", f"Say {name}:latest for the newest version.")
        return cls(name, version if colon else None)

    @property
    def open(self) -> bool:
        """Whether it leaves the version to the store."""
        return self.version in (None, LATEST)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"
