"""A difference for somebody else: a graph, its inputs, a script that shows it without this project, and a text to report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.tracing import expected_warnings

if TYPE_CHECKING:
    from harness.stages import Stage
    from harness.stages.operators import Arrays, Piece

SHOWN_WITHIN_S = 120

COMPARE = '''

def compare(name, mine, theirs):
    """Prints where the two differ: in shape, in any whole number, or beyond 1e-4 of a value and 1e-5 of the largest."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    if mine.shape != theirs.shape:
        print(f"SHOWN: {name} has the shape {theirs.shape}, expected is {mine.shape}")
    elif mine.dtype.kind != "f" and not np.array_equal(mine, theirs):
        print(f"SHOWN: {name} differs at {np.argwhere(mine != theirs).tolist()[:4]}")
    elif mine.dtype.kind == "f" and not np.allclose(
        mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(mine[np.isfinite(mine)]).max(initial=0), equal_nan=True
    ):
        apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max()
        print(f"SHOWN: {name} differs by up to {apart:.6g}: {theirs.ravel()[:4]} instead of {mine.ravel()[:4]}")

'''
"""The part of every script that compares."""

TRACED = "stage.pt"
TORCH_IMPORTS = "import torch\nimport torchvision  # for its operators\n"
STORED = 'expected = dict(np.load("expected.npz"))\n'
"""Where a script takes what is expected from."""


def by_torch(outputs: Sequence[str]) -> str:
    """The same, asked of the trace."""
    return (
        'answers = torch.jit.load("stage.pt")(*map(torch.from_numpy, inputs.values()))\n'
        "answers = answers if isinstance(answers, tuple) else (answers,)\n"
        f"expected = {{name: one.numpy() for name, one in zip({list(outputs)}, answers)}}\n"
    )


SHOW_TRACE = (
    '''"""Runs stage.pt, traced by torch.jit.trace with sample.npz, on inputs.npz; expected.npz is what the live module answers."""

import numpy as np
import torch
import torchvision  # for its operators
'''
    + COMPARE
    + """
inputs, expected = dict(np.load("inputs.npz")), dict(np.load("expected.npz"))
found = torch.jit.load("stage.pt")(*map(torch.from_numpy, inputs.values()))
for (name, mine), theirs in zip(expected.items(), found if isinstance(found, tuple) else (found,)):
    compare(name, mine, theirs.numpy())
"""
)


def keep_trace(folder: Path, stage: Stage, sample: Mapping[str, Any], env: Mapping[str, Any]) -> None:
    """The stage's trace, made with ``sample``, in ``folder``; the inputs of ``env`` and what the live stage answers to them."""
    import torch

    from harness.stages import module_of

    with expected_warnings(), torch.no_grad():
        traced = torch.jit.trace(module_of(stage), tuple(sample[name] for name in stage.inputs), strict=False, check_trace=False)
        traced.save(str(folder / TRACED))
    np.savez(folder / "sample.npz", allow_pickle=False, **{name: sample[name].numpy() for name in stage.inputs})
    _keep(folder, {name: env[name].numpy() for name in stage.inputs}, {name: env[name].numpy() for name in stage.outputs})


def keep_piece(folder: Path, piece: Piece) -> None:
    """A piece of a graph in ``folder``, its inputs and what is expected of it."""
    if piece.folder is not None and piece.folder != folder:
        shutil.copytree(piece.folder, folder, dirs_exist_ok=True)
    _keep(folder, piece.inputs, piece.expected)


def _keep(folder: Path, inputs: Arrays, expected: Arrays) -> None:
    np.savez(folder / "inputs.npz", allow_pickle=False, **dict(inputs))
    np.savez(folder / "expected.npz", allow_pickle=False, **dict(expected))


def write_script(folder: Path, title: str, words: str, show: str, packages: Sequence[str]) -> bool:
    """``show.py`` and ``issue.md``, beside what was kept; whether the script, run by itself, shows the difference."""
    (folder / "show.py").write_text(show, encoding="utf-8")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    with np.load(folder / "inputs.npz", allow_pickle=False) as inputs:
        shapes = json.dumps({name: [str(value.dtype), *value.shape] for name, value in inputs.items()})
    beside = ", ".join(f"`{path.name}`" for path in sorted(folder.iterdir()) if path.name not in ("show.py", "issue.md"))
    (folder / "issue.md").write_text(
        f"# {title}\n\n{words}.\n\nVersions: {versions}.\n\nInputs: {shapes}.\n\n"
        f"To see it: `python show.py` beside {beside}.\n\n```python\n{show}```\n",
        encoding="utf-8",
    )
    try:
        command = [sys.executable, "-W", "ignore", "show.py"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=SHOWN_WITHIN_S)
    except subprocess.TimeoutExpired:
        return False
    return "SHOWN: " in done.stdout
