"""Who stored an entry of a model store, by its files alone: nothing of it is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.integrity import MANIFEST
from harness.serving.entry import DETECTOR

if TYPE_CHECKING:
    from harness.serving.tags import Tag

LIBRARYS = "model.yaml"
"""What every entry of BentoML's has."""

ADOPTABLE = "bentoml.detectron"
"""The one route of the library whose entries `harness.serving.adopted.adopt` reads."""

_GRAPHS = ("bentoml.torchscript", "bentoml.onnx")
_MODULE = re.compile(r"^module: '?([\w.]+)'?$", re.MULTILINE)
_CREATED = re.compile(r"^creation_time: '?([^'\n]+)'?$", re.MULTILINE)


def is_ours(folder: Path) -> bool:
    """Whether this store made it, whatever became of it since."""
    return any((folder / name).is_file() for name in (MANIFEST, DETECTOR))


def route_of(folder: Path) -> str:
    """The module of BentoML's that ``model.yaml`` names as its maker; empty where it names none."""
    return _said(_MODULE, folder)


def told_of(folder: Path) -> tuple[str, str]:
    """When an entry of BentoML's own routes says that it was made, and what is wrong with it in words."""
    created = _said(_CREATED, folder)
    return created, "" if created else "it has no whole model.yaml: a save was interrupted"


def cure_of(tag: Tag, folder: Path) -> str:
    """How what another route stored comes into this store."""
    route = route_of(folder)
    if is_ours(folder):
        return "This one is plain files already."
    if route == ADOPTABLE:
        return f"`harness store adopt {tag} --trust-pickle` stores it anew, as plain files."
    if route in _GRAPHS:
        return "It is a graph, and this store keeps live models: store the model that it was traced from."
    how = f"with {route}" if route.startswith("bentoml.") else "as whoever stored it does"
    return f"Load it {how} and store the live model anew: docs/serving.md shows it."


def _said(what: re.Pattern[str], folder: Path) -> str:
    try:
        found = what.search((folder / LIBRARYS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""
    return found[1] if found else ""
