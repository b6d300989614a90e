"""OpenVINO: the graph is converted, saved as IR, read back from disk and compiled, as OpenVINO's guide to Detectron2 does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.doctor import present
from harness.errors import HarnessError, Unavailable
from harness.families import family
from harness.families.torchvision_resize import graph_with_size, limits_px
from harness.families.two_images import TwoImagesSession, graph_of_two, takes_two
from harness.tracing import Signature, expected_warnings, export_onnx
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.adapters import GraphSession
    from harness.detections import Tensors
    from harness.families import Graph, Model
    from harness.types import ModelSpec

_CLASSES = {"i4": "int4", "u4": "int4", "i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "fp16", "f32": "fp32"}
_FROM_LOWEST = ("int4", "int8", "bf16", "fp16", "fp32")
_UNCOMPRESSED = {"compress_to_fp16": False}
_MENDED = {**_UNCOMPRESSED, "mend": True}
_F32_ON_CPU = {"device": "CPU", "precision": "f32"}
_ONNX_OPSET = 17
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_WEIGHTED_OPERATIONS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")
"""The same layers, as a compiled model calls them and as IR does."""


def _openvino() -> Any:
    """OpenVINO without its telemetry: importing it would write an id under HOME and send an event.

    OpenVINO takes its own stub where the package ``openvino_telemetry`` is not installed; this process is told that it is not.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class IrSession:
    """A compiled IR on one device. Inputs and outputs carry the names of the graph that was converted."""

    def __init__(self, core: Any, ir: Path, compiled: Any, signature: Signature) -> None:
        from openvino import AsyncInferQueue

        self._core, self._ir, self._compiled, self._signature = core, ir, compiled, signature
        self._request = compiled.create_infer_request()
        self._queue = AsyncInferQueue(compiled)

    @property
    def batching(self) -> str:
        """As many requests as the compiled model asks for: one, unless it was told to go for throughput."""
        jobs = len(self._queue)
        return "a loop over the images" if jobs == 1 else f"{jobs} requests in flight (AsyncInferQueue)"

    @cached_property
    def effective(self) -> Effective:
        """Read back from the compiled model; the stored precision from the IR on disk."""
        # While AUTO still compiles for another device it answers on the CPU, and says so in brackets.
        devices = [device.strip("()") for device in self._compiled.get_property("EXECUTION_DEVICES")]
        found = _stored_precisions(self._core.read_model(self._ir)) | _computed_precisions(self._compiled)
        threads, streams = (_told(self._compiled, name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"))
        return Effective(
            precision=min(found, key=_FROM_LOWEST.index),
            device=",".join(devices).lower().replace(".", ":"),
            provider=f"OpenVINO {'+'.join(devices)} plugin",
            threads=None if threads is None else int(threads),
            streams=None if streams is None else int(streams),
            versions={"openvino": version("openvino"), "exporter": self._signature.exporter},
        )

    def run(self, tensors: Tensors) -> Tensors:
        """Named tensors in, named tensors out; the outputs are copies."""
        # What it gives is a view of what is copied below: without being told so it makes a copy of its own.
        self._request.infer(self._inputs(tensors), share_outputs=True)
        return self._named(self._request)

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        """Requests in flight, as many as the compiled model asks for."""
        answers: list[Tensors] = [{} for _ in batch]

        def keep(request: Any, index: int) -> None:
            answers[index] = self._named(request)

        self._queue.set_callback(keep)
        for index, tensors in enumerate(batch):
            self._queue.start_async(self._inputs(tensors), index)
        self._queue.wait_all()
        return answers

    def _inputs(self, tensors: Tensors) -> list[Any]:
        return list(self._signature.ordered(tensors).values())

    def _named(self, request: Any) -> Tensors:
        # A request's tensors are overwritten by its next inference: they are copied while they are this image's.
        return {
            name: np.array(request.get_output_tensor(index).data, copy=True) for index, name in enumerate(self._signature.outputs)
        }


class OpenvinoIr:
    """Convert, save the IR, reload it from disk, compile."""

    name = "openvino_ir"
    requires = ("openvino", "torch")
    variants = (
        Variant("f32", build=_UNCOMPRESSED, open=_F32_ON_CPU),
        Variant("f32_mended", build=_MENDED, open=_F32_ON_CPU, mends="f32"),
        Variant("onnx_f32", build={**_UNCOMPRESSED, "route": "onnx"}, open=_F32_ON_CPU, base=False),
        Variant("pair_f32", build={**_UNCOMPRESSED, "images": 2}, open=_F32_ON_CPU, base=False),
        Variant("f32_compressed", build={"compress_to_fp16": True}, open=_F32_ON_CPU, precision="fp16", base=False),
        Variant("default_precision", build=_UNCOMPRESSED, open={"device": "CPU"}, precision="default", base=False),
        Variant("default_precision_mended", _MENDED, {"device": "CPU"}, precision="default", base=False, mends="default_precision"),
        Variant("int8", build={**_UNCOMPRESSED, "int8": True}, open=_F32_ON_CPU, precision="int8", base=False),
        Variant(
            "int8_mended",
            build={**_UNCOMPRESSED, "int8": True, "mend": True},
            open=_F32_ON_CPU,
            precision="int8",
            base=False,
            mends="int8",
        ),
        Variant("latency", build=_MENDED, open={**_F32_ON_CPU, "hint": "LATENCY"}, base=False),
        Variant("throughput", build=_MENDED, open={**_F32_ON_CPU, "hint": "THROUGHPUT"}, base=False),
        Variant("auto", build=_UNCOMPRESSED, open={**_F32_ON_CPU, "device": "AUTO"}, base=False, device="any"),
        Variant("gpu", build=_UNCOMPRESSED, open={**_F32_ON_CPU, "device": "GPU"}, base=False, device="gpu"),
        Variant("npu", build=_UNCOMPRESSED, open={**_F32_ON_CPU, "device": "NPU"}, base=False, device="npu"),
    )

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """CUDA has no OpenVINO plugin; quantising needs a library of its own."""
        if device != "cpu":
            return "OpenVINO has no CUDA plugin: its GPU plugin drives Intel devices only."
        if variant.build.get("int8") and not present("nncf"):
            return "NNCF, which quantises, is not installed: pip install 'detection-harness[int8]'."
        return None

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Write ``model.xml`` and ``model.bin``, and the names of the graph's tensors beside them.

        ``variant.build``: ``compress_to_fp16``; ``mend``: integers are divided in floating point, torchvision's graph is told the
        size to resize to, and of an ``int8`` model weighted layers alone are quantised; ``route`` "onnx": by way of an ONNX file;
        ``images`` 2: a graph that takes two at once.
        """
        openvino = _openvino()
        # Asked here too: a device that is not there must not cost a conversion.
        _demand_device(openvino.Core(), variant)
        mend = variant.build.get("mend", False)
        resized = mend and model.spec.family == "torchvision"
        graph = graph_of_two(model) if takes_two(variant) else graph_with_size(model) if resized else model.graph
        route = variant.build.get("route", "torch")
        converted, exporter = _converted(graph, route)
        if mend:
            _divide_in_float(converted)
        if variant.build.get("int8", False):
            exporter = f"{exporter}, nncf.quantize {version('nncf')}"
        signature = Signature.of(graph, exporter, limits_px(model) if resized else None)
        if route == "onnx":
            # The exporter drops an input that no node reads; the converter gives others names of what reads them beside their own.
            names = [port.get_names() for port in converted.inputs]
            signature = replace(signature, inputs=tuple(next(name for name in graph.example if name in of) for of in names))
        if variant.build.get("int8", False):
            converted = _quantised(converted, model, signature, weighted_alone=mend)
        openvino.save_model(converted, artifact / "model.xml", compress_to_fp16=variant.build["compress_to_fp16"])
        signature.write(artifact)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[GraphSession]:
        """Compile the IR. Raises `Unavailable` where the runtime does not list the device.

        ``variant.open``: ``device`` (a plugin), ``precision``, ``threads`` (0: the runtime's own number), ``hint``: of performance,
        LATENCY or THROUGHPUT, by which the runtime chooses its streams.
        """
        core = _openvino().Core()
        _demand_device(core, variant)
        config: dict[str, Any] = {}
        if "precision" in variant.open:
            config["INFERENCE_PRECISION_HINT"] = variant.open["precision"]
        if variant.open.get("threads", 0) and variant.open.get("device", "CPU") in ("CPU", "AUTO"):
            config["INFERENCE_NUM_THREADS"] = variant.open["threads"]
        if "hint" in variant.open:
            config["PERFORMANCE_HINT"] = variant.open["hint"]
        ir = artifact / "model.xml"
        compiled = core.compile_model(core.read_model(ir), variant.open.get("device", "CPU"), config)
        session = IrSession(core, ir, compiled, Signature.read(artifact))
        yield TwoImagesSession(session) if takes_two(variant) else session


def _demand_device(core: Any, variant: Variant) -> None:
    device, listed = variant.open.get("device", "CPU"), core.available_devices
    if device != "AUTO" and not any(name.partition(".")[0] == device for name in listed):
        raise Unavailable(f"OpenVINO lists no {device} device here, only {', '.join(listed)}.")


def _converted(graph: Graph, route: str) -> tuple[Any, str]:
    """The graph as an OpenVINO model, and what exported it."""
    openvino = _openvino()
    converter = f"openvino.convert_model {version('openvino')}"
    if route == "onnx":
        with TemporaryDirectory() as folder:
            exporter = export_onnx(graph, Path(folder) / "model.onnx", _ONNX_OPSET)
            return openvino.convert_model(Path(folder) / "model.onnx"), f"{exporter}, {converter}"
    example = tuple(graph.example.values())
    with expected_warnings():
        converted = openvino.convert_model(graph.module, example_input=example[0] if len(example) == 1 else example)
    return converted, f"{converter}, torch {version('torch')}"


def _quantised(converted: Any, model: Model, signature: Signature, *, weighted_alone: bool) -> Any:
    """Weights and activations in int8, their ranges learnt from the model's calibration pictures.

    As it comes, NNCF quantises every operation that the CPU plugin can run in int8, those that make boxes of anchors among them:
    ``docs/findings/nncf_box_arithmetic.py``. With ``weighted_alone`` it is told to leave all but the weighted layers. Raises
    `HarnessError` where the model comes without pictures, or is a stage that takes none.
    """
    import nncf

    processor = family(model.spec.family).processor(model.spec)
    if not model.graph.example.keys() <= processor.prepare(model.sample).keys():
        raise HarnessError("int8 learns its ranges from pictures", "A stage that takes none cannot be quantised by itself.")
    tensors = [list(signature.ordered(processor.prepare(picture)).values()) for picture in model.calibration()]
    if not tensors:
        raise HarnessError(f"{model.spec.id} has no pictures to calibrate with", "Give the model some: Model.calibration.")
    # NNCF 3.4 stumbles over names that a converted model holds twice; reading a model back from IR makes them differ.
    with TemporaryDirectory() as folder:
        _openvino().save_model(converted, Path(folder) / "model.xml", compress_to_fp16=False)
        reread = _openvino().Core().read_model(Path(folder) / "model.xml")
        left = {op.get_type_name() for op in reread.get_ops()} - {*_WEIGHTED_OPERATIONS} if weighted_alone else set()
        ignored = nncf.IgnoredScope(types=sorted(left), validate=False)
        return nncf.quantize(reread, nncf.Dataset(tensors), subset_size=len(tensors), ignored_scope=ignored)


def _divide_in_float(model: Any) -> None:
    """Integer division as floating-point division rounded down, and once more of what that leaves: exact for all of 32 bits.

    Once would do for sizes of pictures, not for places among all anchors and classes of a dense detector. The CPU plugin merges
    an integer division into a reduction before it and then rounds to the nearest number, so that Detectron2 pads too far:
    ``docs/findings/openvino_integer_division_rounds.py``.
    """
    from openvino import opset13

    for division in model.get_ops():
        element = division.get_output_element_type(0) if division.get_type_name() == "Divide" else None
        if element is not None and element.is_integral():
            above, below = (division.input_value(index) for index in (0, 1))
            whole = _rounded_down(above, below)
            rest = opset13.subtract(above, opset13.multiply(whole, below))
            exact = opset13.add(whole, _rounded_down(rest.output(0), below))
            division.output(0).replace(exact.output(0))
    model.validate_nodes_and_infer_types()


def _rounded_down(above: Any, below: Any) -> Any:
    from openvino import opset13

    quotient = opset13.divide(*(opset13.convert(side, "f32") for side in (above, below)))
    return opset13.convert(opset13.floor(quotient), above.get_element_type().to_string())


def _stored_precisions(model: Any) -> set[str]:
    """The classes of the constants that hold more than one number; index arrays (i32, i64) and masks say nothing."""
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    types = {op.get_element_type().to_string() for op in constants if np.prod(op.get_output_shape(0), dtype=np.int64) > 1}
    return {_CLASSES[name] for name in types if name in _CLASSES} or {"fp32"}


def _told(compiled: Any, name: str) -> Any:
    """A property of the compiled model, None where its plugin has no such: AUTO tells neither precision nor threads."""
    return compiled.get_property(name) if name in compiled.get_property("SUPPORTED_PROPERTIES") else None


def _computed_precisions(compiled: Any) -> set[str]:
    """What the plugin promises, and what its layers ran in; booleans are u8 there, so integers count in weighted layers only."""
    promised = _told(compiled, "INFERENCE_PRECISION_HINT")
    found = {"fp32" if promised is None else _CLASSES.get(promised.to_string(), "fp32")}
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        precision = str(info["runtimePrecision"].value)
        if precision in ("f16", "bf16") or str(info["layerType"].value) in _WEIGHTED:
            found.add(_CLASSES.get(precision, "fp32"))
    return found


ADAPTER = OpenvinoIr()
