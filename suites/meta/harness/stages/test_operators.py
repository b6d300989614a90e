"""Finding the operator: a runtime that is wrong about one, or about two together, is told by the smallest graph that shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import HarnessError
from harness.stages import Stage, operators
from harness.stages.onnx_graph import OnnxParts
from harness.stages.openvino_graph import OpenvinoParts
from harness.stages.operators import Piece, Search, _difference, find, smallest, upstream
from harness.stages.reproducers import keep_piece, write_script
from harness.tracing import Signature
from harness.types import StageDifference, Variant

onnx = pytest.importorskip("onnx")

X = np.linspace(-2, 3, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """``relu(x) * 3 + x``, then its largest value."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "three"], ["m"], name="times"),
        helper.make_node("Add", ["m", "x"], ["s"], name="plus"),
        helper.make_node("ReduceMax", ["s"], ["y"], name="largest", keepdims=0),
    ]
    three = helper.make_tensor("three", TensorProto.FLOAT, [1], [3.0])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "g", [given], [result], [three])
    folder = tmp_path / "stage"
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(folder / "model.onnx"))
    Signature(("x",), ("y",), "by hand").write(folder)
    return folder


def honest(folder: Path, inputs: Any) -> Any:
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(folder / "model.onnx"))
    return dict(zip([o.name for o in model.graph.output], ReferenceEvaluator(model).run(None, dict(inputs)), strict=True))


def kinds(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node]


def wrong_about(*together: str) -> Any:
    def run(folder: Path, inputs: Any) -> Any:
        answers = honest(folder, inputs)
        return {name: value + 1 for name, value in answers.items()} if set(together) <= set(kinds(folder)) else answers

    return run


def test_the_judge_evaluates_every_operator(artifact: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    assert list(parts.operators) == ["relu", "times", "plus", "largest"]
    assert parts.outputs()["y"] == np.float32((np.maximum(X, 0) * 3 + X).max())
    assert all(map(parts.judged, parts.operators))
    assert parts.producers("plus") == ("times",)


def test_upstream_follows_the_producers_step_by_step(artifact: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    assert upstream(parts, "largest", 0) == ("largest",)
    assert upstream(parts, "largest", 2) == ("times", "plus", "largest")


def test_an_honest_runtime_has_no_failing_piece(artifact: Path, tmp_path: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, honest, artifact, tmp_path / "pieces", 1e-5)
    assert (found.piece, found.unjudged, found.refused) == (None, (), 0)
    # Four alone, three with one step before them, and so on: none is compared twice.
    assert found.compared == 10
    assert found.told("the judge") == "none of 10 pieces of up to 6 steps differs from the judge by itself"


def test_one_wrong_operator_is_named_alone(artifact: Path, tmp_path: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, wrong_about("Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found.piece is not None
    assert found.piece.operators == ("plus",)
    assert set(found.piece.inputs) == {"m", "x"}


def test_operators_that_are_wrong_together_are_named_together(artifact: Path, tmp_path: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, wrong_about("Mul", "Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found.piece is not None
    assert found.piece.operators == ("times", "plus")
    assert found.piece.folder is not None
    assert kinds(found.piece.folder) == ["Mul", "Add"]


def test_a_piece_that_the_runtime_refuses_is_no_difference(artifact: Path, tmp_path: Path) -> None:
    def refuses(_: Path, __: Any) -> Any:
        raise RuntimeError("cannot load")

    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, refuses, artifact, tmp_path / "pieces", 1e-5)
    assert found.piece is None
    assert found.told("the judge").startswith("not established: nothing could be compared piece by piece; ")


def sorted_wrongly(places: list[int]) -> StageDifference | None:
    """Of a piece that sorts the values 5, 7, 7, 3 and is fed a 9 besides, by the places it gives instead of 1, 2, 0."""
    fed = np.array([5, 7, 7, 3, 9], np.float32)
    piece = Piece(("TopK",), {"x": fed}, {"values": np.array([7, 7, 5], np.float32), "places": np.array([1, 2, 0])})
    answers = {"values": piece.expected["values"], "places": np.array(places)}
    return _difference(piece, answers, 1e-5)


def test_equal_values_may_be_given_in_any_order_and_only_these() -> None:
    assert sorted_wrongly([1, 2, 0]) is None
    assert sorted_wrongly([2, 1, 0]) is None
    found = sorted_wrongly([1, 2, 3])
    assert found is not None
    assert found.output == "places"


def test_a_piece_that_cannot_be_cut_is_no_difference(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    monkeypatch.setattr(parts, "cut", lambda *_: {}["gone"])
    found = smallest(parts, wrong_about("Add"), artifact, tmp_path / "pieces", 1e-5)
    assert (found.piece, found.compared) == (None, 0)


def test_operators_without_a_judge_are_told_and_nothing_behind_them_is_blamed(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    monkeypatch.setattr(parts, "judged", lambda operator: operator in ("relu", "times"))
    found = smallest(parts, wrong_about("Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found.unjudged == ("plus", "largest")
    assert "none of 3 pieces" in found.told("the judge")
    assert "2 operators have no judge (plus, largest)" in found.told("the judge")


def test_a_search_ends(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "SEARCH_S", -1.0)
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    with pytest.raises(HarnessError, match="none of the first 0 pieces"):
        smallest(parts, honest, artifact, tmp_path / "pieces", 1e-5)


class Judged:
    """Parts of a graph of which the judge says what is given here."""

    judge = "by hand"

    def __init__(self, outputs: dict[str, Any]) -> None:
        self._outputs = outputs

    def outputs(self) -> dict[str, Any]:
        return self._outputs


@pytest.mark.parametrize(
    ("judged", "trace_is_sound", "culprit"),
    [
        ({"y": X * 2}, False, "runtime"),  # a mended export of a trace that is not sound
        ({"y": X * 3}, False, "trace"),
        ({"y": X * 3}, True, "export"),
        ({}, False, "trace"),
        ({}, True, "runtime"),
    ],
)
def test_who_is_to_blame(judged: dict[str, Any], trace_is_sound: bool, culprit: str) -> None:
    import torch

    def call(x: Any) -> tuple[Any, ...]:
        return (x * (3 if torch.jit.is_tracing() and not trace_is_sound else 2),)

    stage = Stage("doubles", ("x",), ("y",), call, rows=("y",))
    env = {"x": torch.from_numpy(X), "y": torch.from_numpy(X * 2)}
    parts: Any = Judged(judged)
    assert find(stage, env, env, parts, lambda: Search(compared=3)).culprit == culprit


def test_nobody_is_blamed_where_nothing_was_compared() -> None:
    import torch

    stage = Stage("doubles", ("x",), ("y",), lambda x: (x * 2,), rows=("y",))
    env = {"x": torch.from_numpy(X), "y": torch.from_numpy(X * 2)}
    parts: Any = Judged({})
    verdict = find(stage, env, env, parts, lambda: Search(unjudged=("NonMaxSuppression",)))
    assert verdict.culprit == ""
    assert "1 operators have no judge (NonMaxSuppression)" in verdict.words


def test_the_script_of_a_reproducer_runs_without_this_project(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, wrong_about("Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found.piece is not None
    folder = found.piece.folder
    assert folder is not None
    keep_piece(folder, found.piece)
    show = OnnxParts.show(Variant("f32"), "cpu", tuple(found.piece.inputs))
    # The real runtime is right about an addition: the script runs, and shows nothing.
    assert not write_script(folder, "plus is wrong", "plus: wrong", show, OnnxParts.packages)
    assert "harness" not in (folder / "show.py").read_text()
    done = subprocess.run([sys.executable, "show.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "onnxruntime" in (folder / "issue.md").read_text()


def test_openvino_is_judged_by_its_operators_own_evaluation(tmp_path: Path) -> None:
    """The known merge of a reduction and an integer division: found as those two, and by neither alone."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13

    sizes = opset13.parameter(openvino.PartialShape([-1, -1]), openvino.Type.i64)
    axis, stride = opset13.constant(np.array([0])), opset13.constant(np.array(32))
    padded = opset13.divide(opset13.reduce_max(sizes, axis, False), stride)
    folder = tmp_path / "stage"
    folder.mkdir()
    openvino.save_model(openvino.Model([padded], [sizes], "g"), folder / "model.xml")
    Signature(("sizes",), ("padded",), "by hand").write(folder)
    parts = OpenvinoParts(folder / "model.xml", {"sizes": np.array([[191, 255]])}, ("padded",))
    assert parts.outputs()["padded"].tolist() == [5, 7]

    def run(piece: Path, inputs: Any) -> Any:
        compiled = openvino.Core().compile_model(piece / "model.xml", "CPU")
        answers = compiled(list(inputs.values()))
        return {name: answers[index] for index, name in enumerate(Signature.read(piece).outputs)}

    found = smallest(parts, run, folder, tmp_path / "pieces", 1e-5)
    assert found.piece is not None
    assert found.piece.folder is not None
    assert found.difference is not None
    assert [name.partition(" ")[0] for name in found.piece.operators] == ["ReduceMax", "Divide"]
    assert found.difference.words.endswith("6 instead of 5, level 0")
    keep_piece(found.piece.folder, found.piece)
    show = OpenvinoParts.show(Variant("f32"), "cpu", tuple(found.piece.inputs))
    assert write_script(found.piece.folder, "it rounds", "a division: wrong", show, OpenvinoParts.packages)
    shown = subprocess.run([sys.executable, "show.py"], cwd=found.piece.folder, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("SHOWN: ")
