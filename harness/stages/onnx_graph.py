"""ONNX graphs, judged by `onnx.reference` and cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.stages.operators import Arrays, Piece
from harness.stages.reproducers import COMPARE, STORED, TORCH_IMPORTS, by_torch

if TYPE_CHECKING:
    from harness.types import Variant

FILE = "model.onnx"
_HEAD = '''"""Runs model.onnx in ONNX Runtime and compares with {expected}."""

import numpy as np
{imports}'''
_BODY = """
inputs = dict(np.load("inputs.npz"))
{expected}{run}for (name, mine), theirs in zip(expected.items(), found):
    compare(name, mine, theirs)
"""
_BY_RUNTIME = """options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.{level}
session = onnxruntime.InferenceSession("model.onnx", options, providers={providers})
found = session.run(list(expected), {{given.name: inputs[given.name] for given in session.get_inputs()}})
"""


class OnnxParts:
    """A graph evaluated by `onnx.reference` on ``inputs``. Subgraphs of loops and conditions stay whole."""

    file = FILE
    judge = "onnx.reference"
    packages: tuple[str, ...] = ("onnxruntime", "onnx")

    def __init__(self, path: Path, inputs: Arrays, _outputs: Sequence[str] = ()) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        graph = self._model.graph
        for index, node in enumerate(graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        self._nodes = {node.name: node for node in graph.node}
        self._maker = {name: node.name for node in graph.node for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._results = tuple(output.name for output in graph.output)
        every = onnx.ModelProto()
        every.CopyFrom(self._model)
        del every.graph.output[:]
        every.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in self._maker)
        used = {given.name for given in graph.input}
        feeds = {name: value for name, value in inputs.items() if name in used}
        answers = ReferenceEvaluator(every).run(None, feeds)
        self._values: dict[str, Any] = {**feeds, **dict(zip(self._maker, answers, strict=True))}

    @staticmethod
    def show(variant: Variant, device: str, _inputs: Sequence[str], outputs: Sequence[str] = ()) -> str:
        """A script that starts a session as the variant does; with ``outputs`` it compares with ``stage.pt`` run by PyTorch."""
        level = "ORT_ENABLE_ALL" if variant.open.get("optimise", True) else "ORT_DISABLE_ALL"
        providers = ["CUDAExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
        judge = "the trace that it was exported from, in PyTorch" if outputs else "expected.npz, of onnx.reference"
        imports = "import onnxruntime\n" + (TORCH_IMPORTS if outputs else "")
        head = _HEAD.format(expected=judge, imports=imports)
        run = _BY_RUNTIME.format(level=level, providers=providers)
        return head + COMPARE + _BODY.format(expected=by_torch(outputs) if outputs else STORED, run=run)

    @property
    def operators(self) -> Sequence[str]:
        """Every node but constants, in the file's order."""
        return tuple(name for name, node in self._nodes.items() if node.op_type != "Constant")

    def producers(self, operator: str) -> Sequence[str]:
        """Those of its inputs' nodes that compute."""
        makers = (self._maker.get(name) for name in _read(self._nodes[operator]))
        return tuple(name for name in makers if name is not None and self._nodes[name].op_type != "Constant")

    def judged(self, operator: str) -> bool:
        """All of them, but for sequences, which are no arrays."""
        names = (*_read(self._nodes[operator]), *filter(None, self._nodes[operator].output))
        return all(isinstance(self._values.get(name, np.zeros(0)), np.ndarray) for name in names)

    def outputs(self) -> Arrays:
        """The graph's outputs by name."""
        return {name: self._values[name] for name in self._results}

    def cut(self, operators: Sequence[str], folder: Path) -> Piece:
        """Write ``model.onnx``: the nodes with the constants that they read; what others compute becomes an input."""
        import onnx

        nodes = [self._nodes[name] for name in operators]
        made = {name for node in nodes for name in node.output if name}
        read = dict.fromkeys(name for node in nodes for name in _read(node) if name not in made)
        constants = [self._nodes[self._maker[name]] for name in read if self._is_constant(name)]
        stored = [self._constants[name] for name in read if name in self._constants]
        given = {name: self._array(name) for name in read if name not in self._constants and not self._is_constant(name)}
        expected = {name: self._array(name) for name in nodes[-1].output if name}
        graph = onnx.helper.make_graph([*constants, *nodes], "piece", _infos(given), _infos(expected), stored)
        options = {"opset_imports": self._model.opset_import, "ir_version": self._model.ir_version}
        onnx.save(onnx.helper.make_model(graph, **options), str(folder / FILE))
        return Piece(tuple(operators), given, expected)

    def _is_constant(self, name: str) -> bool:
        maker = self._maker.get(name)
        return maker is not None and self._nodes[maker].op_type == "Constant"

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(self._values[name])


def _read(node: Any) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs take from outside among them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inside = {name for inner in attribute.g.node for name in inner.output} | {given.name for given in attribute.g.input}
            inside |= {tensor.name for tensor in attribute.g.initializer}
            yield from (name for inner in attribute.g.node for name in _read(inner) if name not in inside)


def _infos(arrays: Arrays) -> list[Any]:
    import onnx

    def shape(value: NDArray[Any]) -> list[int | None]:
        # A list of sizes tells by its length how many axes something has: that is never free.
        return list(value.shape) if value.ndim == 1 and value.dtype.kind == "i" else [None] * value.ndim

    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in arrays.items()}
    return [onnx.helper.make_tensor_value_info(name, kinds[name], shape(value)) for name, value in arrays.items()]
