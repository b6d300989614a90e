"""OpenVINO IR, judged by the operators' own reference evaluation, and by PyTorch's operator where they have none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.stages.openvino_judges import BY_TORCH
from harness.stages.operators import Arrays, Piece
from harness.stages.reproducers import COMPARE, STORED, TORCH_IMPORTS, by_torch

if TYPE_CHECKING:
    from harness.types import Variant

FILE = "model.xml"
_HEAD = '''"""Compiles model.xml for {device} and compares with {expected}."""

import numpy as np
import openvino as ov
{imports}'''
_BODY = """
inputs = dict(np.load("inputs.npz"))
{expected}compiled = ov.Core().compile_model("model.xml", "{device}", {config})
found = compiled([inputs[name] for name in {names}])
for index, (name, mine) in enumerate(expected.items()):
    compare(name, mine, found[index])
"""

Values = dict[tuple[str, int], NDArray[Any]]
_SILENT = ("Parameter", "Constant", "Result")


class OpenvinoParts:
    """An IR evaluated operator by operator on ``inputs``, given in the order of its parameters."""

    file = FILE
    judge = "the operators' own reference evaluation"
    packages: tuple[str, ...] = ("openvino",)

    def __init__(self, path: Path, inputs: Arrays, outputs: Sequence[str]) -> None:
        import openvino

        self._path, self._outputs = path, outputs
        self._model = openvino.Core().read_model(path)
        self._ops = {op.get_friendly_name(): op for op in self._model.get_ordered_ops()}
        self._values: Values = {}
        for parameter, value in zip(self._model.get_parameters(), inputs.values(), strict=True):
            self._values[parameter.get_friendly_name(), 0] = np.asarray(value, order="C")
        for name, op in self._ops.items():
            self._evaluate(name, op)

    @staticmethod
    def show(variant: Variant, _device: str, inputs: Sequence[str], outputs: Sequence[str] = ()) -> str:
        """A script that compiles as the variant does; with ``outputs`` it compares with ``stage.pt`` run by PyTorch."""
        plugin = variant.open.get("device", "CPU")
        config = {"INFERENCE_PRECISION_HINT": variant.open["precision"]} if "precision" in variant.open else {}
        judge = "the trace that it was exported from, in PyTorch" if outputs else "expected.npz, the operators' own evaluation"
        head = _HEAD.format(device=plugin, expected=judge, imports=TORCH_IMPORTS if outputs else "")
        said = by_torch(outputs) if outputs else STORED
        return head + COMPARE + _BODY.format(expected=said, device=plugin, config=config, names=list(inputs))

    @property
    def operators(self) -> Sequence[str]:
        """All but parameters, constants and results."""
        return tuple(name for name, op in self._ops.items() if op.get_type_name() not in _SILENT)

    def producers(self, operator: str) -> Sequence[str]:
        """The operators that compute its inputs."""
        makers = (source.get_node() for source in self._ops[operator].input_values())
        return tuple(maker.get_friendly_name() for maker in makers if maker.get_type_name() not in _SILENT)

    def judged(self, operator: str) -> bool:
        """Whether its inputs and outputs could be evaluated."""
        op = self._ops[operator]
        sources = [(source.get_node().get_friendly_name(), source.get_index()) for source in op.input_values()]
        return all(key in self._values for key in [*sources, *((operator, index) for index in range(op.get_output_size()))])

    def outputs(self) -> Arrays:
        """The graph's outputs that could be evaluated, under the names that they were exported with."""
        found = {}
        for name, result in zip(self._outputs, self._model.get_results(), strict=True):
            source = result.input_value(0)
            key = (source.get_node().get_friendly_name(), source.get_index())
            if key in self._values:
                found[name] = self._values[key]
        return found

    def cut(self, operators: Sequence[str], folder: Path) -> Piece:
        """Write ``model.xml``: the operators with the constants that they read; what others compute becomes a parameter."""
        import openvino

        # A graph of its own, whose connections may be cut.
        ops = {op.get_friendly_name(): op for op in self._model.clone().get_ordered_ops()}
        parameters: dict[tuple[str, int], Any] = {}
        for name in operators:
            for slot in ops[name].inputs():
                source = slot.get_source_output()
                key = (source.get_node().get_friendly_name(), source.get_index())
                if key[0] in operators or source.get_node().get_type_name() == "Constant":
                    continue
                if key not in parameters:
                    shape = openvino.PartialShape([-1] * self._values[key].ndim)
                    parameters[key] = openvino.opset13.parameter(shape, source.get_element_type())
                slot.replace_source_output(parameters[key].output(0))
        end = ops[operators[-1]]
        piece = openvino.Model([end.output(index) for index in range(end.get_output_size())], list(parameters.values()), "piece")
        openvino.save_model(piece, folder / FILE, compress_to_fp16=False)
        given = {f"input_{index}": self._values[key] for index, key in enumerate(parameters)}
        expected = {f"output_{index}": self._values[operators[-1], index] for index in range(end.get_output_size())}
        kinds = tuple(f"{self._ops[name].get_type_name()} ({name})" for name in operators)
        return Piece(kinds, given, expected)

    def _evaluate(self, name: str, op: Any) -> None:
        kind = op.get_type_name()
        if kind == "Constant":
            self._values[name, 0] = _array(op.data, op.get_output_shape(0))
        if kind in _SILENT:
            return
        keys = [(source.get_node().get_friendly_name(), source.get_index()) for source in op.input_values()]
        if not all(key in self._values for key in keys):
            return
        inputs = [self._values[key] for key in keys]
        found = _by_itself(op, inputs)
        if found is None and kind in BY_TORCH:
            found = BY_TORCH[kind](op.get_attributes(), inputs)
        for index, value in enumerate(found or ()):
            self._values[name, index] = value


def _array(value: Any, shape: Any) -> NDArray[Any]:
    return np.array(value).reshape(tuple(shape))


def _by_itself(op: Any, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """The operator's own evaluation; None where it has none for these inputs."""
    import openvino

    def tensor(value: NDArray[Any]) -> Any:
        made = openvino.Tensor(openvino.Type(value.dtype), openvino.Shape(value.shape))
        made.data[...] = value
        return made

    answers = [openvino.Tensor(op.get_output_element_type(index), openvino.Shape([0])) for index in range(op.get_output_size())]
    try:
        if not op.evaluate(answers, [tensor(value) for value in inputs]):
            return None
    except RuntimeError:
        return None
    return [np.array(answer.data).reshape(tuple(answer.get_shape())) for answer in answers]
