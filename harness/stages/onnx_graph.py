"""ONNX graphs, judged by `onnx.reference` and cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stages.operators import Arrays, Piece

FILE = "model.onnx"
SHOW = '''"""Runs model.onnx in ONNX Runtime and in onnx.reference, on the same inputs."""

import numpy as np
import onnxruntime
from onnx.reference import ReferenceEvaluator

inputs = dict(np.load("inputs.npz"))
expected = ReferenceEvaluator("model.onnx").run(None, inputs)
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
found = session.run(None, inputs)
for output, mine, theirs in zip(session.get_outputs(), expected, found):
    if mine.shape != theirs.shape:
        print(f"SHOWN: {output.name} has the shape {theirs.shape}, onnx.reference says {mine.shape}")
    elif mine.dtype.kind != "f" and not np.array_equal(mine, theirs):
        print(f"SHOWN: {output.name} differs at {np.argwhere(mine != theirs).tolist()[:4]}")
    elif mine.dtype.kind == "f" and not np.allclose(
        mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(mine).max(initial=0), equal_nan=True
    ):
        apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max()
        print(f"SHOWN: {output.name} differs by up to {apart:.6g}")
'''


class OnnxParts:
    """A graph evaluated by `onnx.reference` on ``inputs``. Subgraphs of loops and conditions stay whole."""

    file = FILE
    judge = "onnx.reference"
    show = SHOW
    packages = ("onnxruntime", "onnx")

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
