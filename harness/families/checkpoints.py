"""Shipped weights: found, checked against their pinned digest, and widened to the float32 that users of a library have."""

from __future__ import annotations

from hashlib import file_digest
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError, WrongDigest

if TYPE_CHECKING:
    from harness.types import Weights


def weights_file(weights: Weights) -> Path:
    """The file that holds these weights, after its SHA-256 was compared with the pinned one.

    A ``shipped`` path is relative to ``fixtures/weights``. Raises `WrongDigest`, or `HarnessError` where there is no such file and
    where conditioned weights were not made yet.
    """
    path = Path(str(files("harness.fixtures") / "weights" / weights.path)) if weights.source == "shipped" else Path(weights.path)
    if not path.is_file():
        raise HarnessError(f"there is no weights file {path}", "Reinstall detection-harness, or run harness.fixtures.train.")
    verify(path, weights.sha256)
    return path


def verify(path: Path, sha256: str) -> None:
    """Raises `WrongDigest` unless the file has this SHA-256 (lower-case hexadecimal)."""
    with path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WrongDigest(str(path), sha256 or "(none pinned)", found)


def float32_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a ``.safetensors`` file by name; half precision widened to float32, whole numbers as they are."""
    from safetensors.numpy import load_file

    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in sorted(load_file(path).items())
    }
