"""Finding the operator: a runtime that is wrong about one, or about two together, is told by the smallest graph that shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.stages.onnx_graph import SHOW, OnnxParts
from harness.stages.openvino_graph import OpenvinoParts
from harness.stages.operators import Verdict, smallest, upstream, write_reproducer
from harness.tracing import Signature

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
    assert smallest(parts, honest, artifact, tmp_path / "pieces", 1e-5) is None


def test_one_wrong_operator_is_named_alone(artifact: Path, tmp_path: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, wrong_about("Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found is not None
    assert found[0].operators == ("plus",)
    assert set(found[0].inputs) == {"m", "x"}


def test_operators_that_are_wrong_together_are_named_together(artifact: Path, tmp_path: Path) -> None:
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, wrong_about("Mul", "Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found is not None
    assert found[0].operators == ("times", "plus")
    assert found[0].folder is not None
    assert kinds(found[0].folder) == ["Mul", "Add"]


def test_a_piece_that_the_runtime_refuses_is_no_difference(artifact: Path, tmp_path: Path) -> None:
    def refuses(_: Path, __: Any) -> Any:
        raise RuntimeError("cannot load")

    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    assert smallest(parts, refuses, artifact, tmp_path / "pieces", 1e-5) is None


def test_the_script_of_a_reproducer_runs_without_this_project(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    parts = OnnxParts(artifact / "model.onnx", {"x": X})
    found = smallest(parts, wrong_about("Add"), artifact, tmp_path / "pieces", 1e-5)
    assert found is not None
    folder = found[0].folder
    assert folder is not None
    write_reproducer(folder, "plus is wrong", Verdict("runtime", "plus: wrong", *found), SHOW, ("onnx", "onnxruntime"))
    assert "harness" not in (folder / "show.py").read_text()
    done = subprocess.run([sys.executable, "show.py"], cwd=folder, capture_output=True, text=True, check=False)
    # The real runtime is right about an addition: the script runs, and shows nothing.
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
    assert found is not None
    assert [name.partition(" ")[0] for name in found[0].operators] == ["ReduceMax", "Divide"]
    assert found[1].words.endswith("6 instead of 5, level 0")
