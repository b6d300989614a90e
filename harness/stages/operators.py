"""Which operator of an exported stage differs, and the smallest graph that shows it.

A judge says what every operator of the exported graph should answer. Where the whole graph, as the judge runs it, differs from the
live stage, or the judge cannot say, PyTorch runs the stage's trace: where that differs too, the trace is to blame, whatever runs
it; where it does not and the judged graph does, the export changed it. Else the runtime is given ever larger pieces of the graph,
each fed what the judge says, until one answers otherwise: operators by themselves first, then each with its producers, since a
runtime that merges operators may be wrong about several together and about none alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.families import family
from harness.stages import module_of, walk
from harness.stages.bisect import differences, graph_inputs
from harness.stages.reproducers import SHOW_TRACE, keep_piece, keep_trace, write_script
from harness.tracing import Signature, expected_warnings

if TYPE_CHECKING:
    from harness.detections import Pixels, Tensors
    from harness.stages import Env, Stage
    from harness.stages.bisect import Candidate
    from harness.types import StageDifference, Variant

DEPTH = 6
"""How many steps of producers a piece holds at most."""

SEARCH_S = 600.0
"""How long the smallest piece is looked for: the job of `harness bisect` has 900 s unless told otherwise."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a graph as a file of its own in ``folder``: its operators, what it is fed, what the judge says of its outputs."""

    operators: tuple[str, ...]
    inputs: Arrays
    expected: Arrays
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who changed the stage: ``culprit`` is trace, export or runtime, empty where that is not established.

    ``piece`` is the smallest that shows it, of a runtime.
    """

    culprit: str
    words: str
    piece: Piece | None = None
    difference: StageDifference | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search for the smallest piece came to: the piece and its ``difference``, or what was compared and what was not.

    ``compared`` counts pieces; ``unjudged`` are operators that no judge can evaluate, ``refused`` pieces that the runtime would not
    take or that could not be cut.
    """

    piece: Piece | None = None
    difference: StageDifference | None = None
    compared: int = 0
    unjudged: tuple[str, ...] = ()
    refused: int = 0

    def told(self, judge: str) -> str:
        """In words, where no piece was found."""
        left = []
        if self.unjudged:
            more = f" and {len(self.unjudged) - 6} more" if len(self.unjudged) > 6 else ""
            left.append(f"{len(self.unjudged)} operators have no judge ({', '.join(self.unjudged[:6])}{more})")
        if self.refused:
            left.append(f"{self.refused} pieces could not be cut or were refused")
        rest = f"; {' and '.join(left)}" if left else ""
        if not self.compared:
            return f"not established: nothing could be compared piece by piece{rest}"
        return f"none of {self.compared} pieces of up to {DEPTH} steps differs from {judge} by itself{rest}"


class Parts(Protocol):
    """An exported graph that a judge has evaluated on one input, and that can be cut."""

    file: str
    judge: str
    packages: tuple[str, ...]

    @staticmethod
    def show(variant: Variant, device: str, inputs: Sequence[str], outputs: Sequence[str] = (), /) -> str:
        """A script that runs ``file`` as the variant does, fed ``inputs`` in this order, and compares.

        With what is expected; with ``outputs``, the stage's in order, with what PyTorch makes of the stage's trace.
        """

    @property
    def operators(self) -> Sequence[str]:
        """Every operator that computes something, by name, in an order in which they can run."""

    def producers(self, operator: str) -> Sequence[str]:
        """The operators whose outputs it reads."""

    def judged(self, operator: str) -> bool:
        """Whether the judge can say what it answers."""

    def outputs(self) -> Arrays:
        """The graph's outputs by name, as the judge says; without those that it cannot say."""

    def cut(self, operators: Sequence[str], folder: Path) -> Piece:
        """Write these operators, of which the last is the end, into ``folder`` as a graph of their own."""


def find(stage: Stage, sample: Env, env: Env, parts: Parts, pieces: Callable[[], Search]) -> Verdict:
    """Who changed the stage, which was exported with ``sample``, on the picture of ``env``; ``pieces`` looks for the smallest."""
    expected = {name: env[name].cpu().numpy() for name in stage.outputs}
    judged = parts.outputs()
    mine = {name: value for name, value in expected.items() if name in judged}
    changed = next(iter(differences("", mine, judged, stage.rows, stage.per_max)), None)
    # A sound graph whose trace is not was exported otherwise, or mended.
    suspect = expected if changed is not None else {name: value for name, value in expected.items() if name not in judged}
    run = traced_outputs(stage, sample, env) if suspect else {}
    traced = next(iter(differences("", suspect, run, stage.rows, stage.per_max)), None)
    if traced is not None:
        words = f"torch.jit.trace, run by PyTorch itself, already differs from the live stage: {traced.words}"
        return Verdict("trace", words, difference=traced)
    if changed is not None:
        words = f"{parts.judge} runs the exported graph otherwise than PyTorch runs its trace: {changed.words}"
        return Verdict("export", words, difference=changed)
    found = pieces()
    piece, difference = found.piece, found.difference
    if piece is None or difference is None:
        return Verdict("runtime" if found.compared else "", found.told(parts.judge))
    names = " after ".join(reversed(piece.operators)) if len(piece.operators) < 4 else f"{len(piece.operators)} operators"
    return Verdict("runtime", f"{names}: {difference.words}; {parts.judge} is the judge", piece, difference)


def smallest(parts: Parts, run: Callable[[Path, Tensors], Tensors], artifact: Path, scratch: Path, per_max: float) -> Search:
    """The first piece, of the fewest steps of producers, that the runtime answers otherwise than the judge.

    Raises `HarnessError` when `SEARCH_S` seconds are over.
    """
    tried: set[tuple[str, ...]] = set()
    refused = 0
    end_s = time.monotonic() + SEARCH_S
    for depth in range(DEPTH):
        for end in parts.operators:
            piece_of = upstream(parts, end, depth)
            if piece_of in tried or not all(parts.judged(operator) for operator in piece_of):
                continue
            if time.monotonic() > end_s:
                words = f"none of the first {len(tried)} pieces differs by itself, and the {SEARCH_S:.0f} s of the search are over"
                raise HarnessError(words, "Ask with one small picture: --image.")
            tried.add(piece_of)
            folder = scratch / f"piece-{len(tried)}"
            folder.mkdir(parents=True)
            piece, answers = _answered(parts, piece_of, run, folder, Signature.read(artifact).exporter)
            difference = None if piece is None else _difference(piece, answers, per_max)
            if piece is not None and difference is not None:
                return Search(replace(piece, folder=folder), difference, len(tried) - refused)
            refused += piece is None
    unjudged = tuple(operator for operator in parts.operators if not parts.judged(operator))
    return Search(compared=len(tried) - refused, unjudged=unjudged, refused=refused)


def _answered(
    parts: Parts, operators: Sequence[str], run: Callable[[Path, Tensors], Tensors], folder: Path, exporter: str
) -> tuple[Piece | None, Tensors]:
    """The operators cut out into ``folder``, and what the runtime answers."""
    try:
        piece = parts.cut(operators, folder)
        Signature(tuple(piece.inputs), tuple(piece.expected), exporter).write(folder)
        return piece, run(folder, piece.inputs)
    except Exception:  # noqa: BLE001 - a piece that cannot be cut, or that a runtime refuses, says nothing of what it answers
        return None, {}


def _difference(piece: Piece, found: Tensors, per_max: float) -> StageDifference | None:
    seen = differences("", piece.expected, found, per_max=per_max)
    return next((one for one in seen if not _of_equal_values(piece, one.output, found[one.output])), None)


def _of_equal_values(piece: Piece, output: str, found: NDArray[Any]) -> bool:
    """Whether whole numbers differ only at the places of equal values, as what sorts may give them (`TopK`) in any order.

    The values are another output of the same shape; each must stand there, or in what the piece was fed, more than once.
    """
    mine = piece.expected[output]
    values = next((one for one in piece.expected.values() if one.dtype.kind == "f" and one.shape == mine.shape), None)
    if mine.dtype.kind not in "iu" or values is None or np.shape(found) != mine.shape:
        return False
    pools = [values, *(one for one in piece.inputs.values() if one.dtype == values.dtype)]
    return all(any((pool == value).sum() > 1 for pool in pools) for value in np.unique(values[mine != found]))


def upstream(parts: Parts, end: str, depth: int) -> tuple[str, ...]:
    """``end`` and its producers up to ``depth`` steps before it, in an order in which they can run."""
    found, edge = {end}, {end}
    for _ in range(depth):
        edge = {producer for operator in edge for producer in parts.producers(operator)} - found
        found |= edge
    return tuple(operator for operator in parts.operators if operator in found)


def dig(candidate: Candidate, stage_name: str, pixels: Pixels, scratch: Path, out: Path) -> Verdict | None:
    """Operator by operator through one stage on one picture; what was found is written to ``out``. None where no graph is exported.

    Exported stages are ``model.onnx`` or ``model.xml`` in the adapter's artifact, with a `Signature` beside them.
    """
    from harness.stages.onnx_graph import OnnxParts
    from harness.stages.openvino_graph import OpenvinoParts

    candidate = candidate.of_stages()
    model, adapter = candidate.model, candidate.adapter
    own = family(model.spec.family).stages(model.spec, model.module)
    stage = next(one for one in own if one.name == stage_name)
    env, sample = walk(own, graph_inputs(model, pixels)), walk(own, model.graph.example)
    artifact = scratch / "stage"
    candidate.exported(stage, sample, artifact)
    kinds: tuple[type[OnnxParts | OpenvinoParts], ...] = (OnnxParts, OpenvinoParts)
    kind = next((kind for kind in kinds if (artifact / kind.file).is_file()), None)
    if kind is None:
        return None
    given = Signature.read(artifact).ordered({name: env[name].numpy() for name in stage.inputs})
    parts = kind(artifact / kind.file, given, stage.outputs)

    def pieces() -> Search:
        return smallest(parts, candidate.run, artifact, scratch / "pieces", stage.per_max)

    verdict = find(stage, sample, env, parts, pieces)
    out.mkdir(parents=True, exist_ok=True)
    named, packages = (candidate.variant, candidate.device), kind.packages
    if verdict.culprit == "trace":
        keep_trace(out, stage, sample, env)
        title = f"torch.jit.trace: {stage_name} is traced into something else"
        show, packages = SHOW_TRACE, ("torch", "torchvision")
    elif verdict.culprit == "export":
        keep_trace(out, stage, sample, env)
        shutil.copytree(artifact, out, dirs_exist_ok=True)
        title = f"{adapter.name}: {stage_name} was exported into something else than its trace"
        show, packages = kind.show(*named, tuple(given), stage.outputs), ("torch", "torchvision", *packages)
    elif verdict.piece is not None:
        keep_piece(out, verdict.piece)
        title = f"{adapter.name}: {verdict.piece.operators[-1]} answers otherwise than {kind.judge}"
        show = kind.show(*named, tuple(verdict.piece.inputs))
    else:
        return verdict
    if not write_script(out, title, verdict.words, show, packages):
        return replace(verdict, words=f"{verdict.words}; show.py, run by itself, does not show it")
    return verdict


def traced_outputs(stage: Stage, sample: Env, env: Env) -> Arrays:
    """What the stage's trace, made with ``sample``, answers to the inputs in ``env`` when PyTorch runs it."""
    import torch

    with expected_warnings(), torch.no_grad():
        given = tuple(sample[name] for name in stage.inputs)
        traced = torch.jit.trace(module_of(stage), given, strict=False, check_trace=False)
        answers = traced(*[env[name].clone() for name in stage.inputs])
    together = answers if isinstance(answers, tuple) else (answers,)
    return {name: value.numpy() for name, value in zip(stage.outputs, together, strict=True)}
