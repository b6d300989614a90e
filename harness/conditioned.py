"""Detectors whose weights are made here: once for a spec and the libraries that are installed, in a process of its own.

`python -m harness.conditioned ORDER.json` is that process; `conditioned` starts it where the file is not there yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from harness.environment import installed
from harness.errors import HarnessError
from harness.types import ModelSpec, Weights, digest

if TYPE_CHECKING:
    from harness.detections import Pixels

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
    order.write_text(json.dumps({"spec": asdict(spec), "file": str(file)}, default=dict), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.conditioned", str(order)],
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


def main() -> None:
    """Make one file of weights: one argument, the order's file."""
    import torch
    from safetensors.torch import save_file

    from harness.families import family
    from harness.families.conditioning import condition
    from harness.fixtures.decks import deck

    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    spec, file = ModelSpec.read(order["spec"]), Path(order["file"])
    kind, scenes = family(spec.family), deck("scenes")
    pictures = [scenes.pixels(name) for name in PICTURES]
    torch.manual_seed(SEED)
    module, config = kind.construct(spec)
    module.eval()
    # The background comes first where the family's own labels begin behind it, else last.
    background = 0 if kind.first_label else len(spec.classes)

    def answer(some: Sequence[Pixels]) -> list[int]:
        return [len(one) for one in kind.predict(module, config, some)]

    try:
        with torch.no_grad():
            found = condition(module, answer, pictures, spec.score_threshold, background)
    except HarnessError as error:
        sys.exit(error.what)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}
    part = file.with_suffix(".part")
    save_file(tensors, part, {"detections": json.dumps(found)})
    part.replace(file)


if __name__ == "__main__":
    main()
