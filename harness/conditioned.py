"""Detectors whose weights are made here: once for a spec and the libraries that are installed, in a process of its own.

`harness.families.conditioning` is what runs there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import file_digest
from pathlib import Path

from filelock import FileLock

from harness.environment import installed
from harness.errors import HarnessError
from harness.types import ModelSpec, Weights, digest

PICTURES = ("even_0", "even_1", "even_2", "even_3", "unscaled_portrait", "overlapping_large")
"""Of the deck ``scenes``: what the weights are scaled on."""

SEED = 20160226
_PATIENCE_S = 1200.0


def conditioned(spec: ModelSpec, cache: Path, say: Callable[[str], object]) -> ModelSpec:
    """The spec with the file of its weights and that file's SHA-256; the file is made where ``cache`` has none.

    ``say`` is told that they are being made. Raises `HarnessError` where they cannot be.
    """
    from harness.families.conditioning import RECIPE

    plain = asdict(replace(spec, weights=Weights("conditioned", "", "")))
    key = digest([RECIPE, SEED, PICTURES, plain, [installed(name) for name in ("torch", spec.family)]])
    file = cache / "conditioned" / f"{spec.id}-{key[:16]}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock"), timeout=_PATIENCE_S):
        if not file.is_file():
            say(f"making weights for {spec.id}: random ones, scaled until its detections stand apart; it takes minutes, once")
            _make(spec, file)
        with file.open("rb") as content:
            sha256 = file_digest(content, "sha256").hexdigest()
    return replace(spec, weights=Weights("conditioned", str(file), sha256))


def _make(spec: ModelSpec, file: Path) -> None:
    order = file.with_suffix(".json")
    asked = {"spec": asdict(spec), "file": str(file), "pictures": PICTURES, "seed": SEED}
    order.write_text(json.dumps(asked, default=dict), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.families.conditioning", str(order)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"weights for {spec.id} were not made within {_PATIENCE_S:g} s", "Try a quieter machine.") from error
    finally:
        order.unlink(missing_ok=True)
    if done.returncode != 0 or not file.is_file():
        last = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        raise HarnessError(f"weights for {spec.id} cannot be made: {last}", "Give its own weights, or leave the model out.")
