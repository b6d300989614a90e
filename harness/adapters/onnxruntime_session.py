"""ONNX Runtime: the graph is exported by torch's TorchScript exporter and run by an inference session."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.doctor import present
from harness.environment import usable_cores
from harness.families.detectron2_keypoints import graph_without_decoding
from harness.families.torchvision_resize import graph_with_size, has_one_size, limits_px
from harness.families.two_images import TwoImagesSession, graph_of_two, takes_two
from harness.tracing import Signature, export_onnx
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.adapters import GraphSession
    from harness.detections import Tensors
    from harness.families import Model
    from harness.types import ModelSpec

_CLASSES = {
    "INT4": "int4",
    "UINT4": "int4",
    "INT8": "int8",
    "UINT8": "int8",
    "BFLOAT16": "bf16",
    "FLOAT16": "fp16",
    "FLOAT": "fp32",
}
_FROM_LOWEST = ("int4", "int8", "bf16", "fp16", "fp32")
_OPT_OUT = "ORT_DISABLE_TELEMETRY"
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_ONNX = "model.onnx"


def quiet_onnxruntime() -> Any:
    """ONNX Runtime with its telemetry off: it would otherwise keep an id and a database under HOME and upload events.

    The variable is the only full opt-out. The library reads it once, while it is imported.
    """
    before = os.environ.get(_OPT_OUT)
    os.environ[_OPT_OUT] = "1"
    try:
        import onnxruntime
    finally:
        if before is None:
            del os.environ[_OPT_OUT]
        else:
            os.environ[_OPT_OUT] = before
    return onnxruntime


class OrtSession:
    """An inference session. Inputs and outputs carry the names of the graph that was exported."""

    def __init__(self, session: Any, onnx_file: Path, signature: Signature, at_once: int = 1) -> None:
        self._session, self._onnx_file, self._signature = session, onnx_file, signature
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="run") if at_once > 1 else None
        self.batching = "a loop over the images" if self._pool is None else f"{at_once} runs of one session at once"
        # The exporter drops an input that no node reads, and the session refuses to be fed it.
        self._fed = {given.name for given in session.get_inputs()}

    @cached_property
    def effective(self) -> Effective:
        """Read back from the session; the stored precision from the file. Threads None: the runtime's own, untold, number."""
        provider = self._session.get_providers()[0]
        options = self._session.get_session_options()
        optimised = (
            "" if options.graph_optimization_level.name == "ORT_ENABLE_ALL" else f" ({options.graph_optimization_level.name})"
        )
        found = _stored_precisions(self._onnx_file)
        if provider == _CUDA and self._session.get_provider_options()[_CUDA].get("use_tf32") != "0":
            found.add("fp16")  # TF32 keeps ten bits of the mantissa, as half precision does
        return Effective(
            precision=min(found, key=_FROM_LOWEST.index),
            device="cuda" if provider == _CUDA else "cpu",
            provider=f"ONNX Runtime {provider}{optimised}",
            threads=int(options.intra_op_num_threads) or None,
            versions={"onnxruntime": _runtime_version(), "exporter": self._signature.exporter},
        )

    def run(self, tensors: Tensors) -> Tensors:
        """Named tensors in, named tensors out; the session makes new arrays for each call."""
        feed = {name: value for name, value in self._signature.ordered(tensors).items() if name in self._fed}
        answers = self._session.run(list(self._signature.outputs), feed)
        return dict(zip(self._signature.outputs, answers, strict=True))

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        """The exported graph takes one image: one after the other, or as many as were asked for at once."""
        return list(map(self.run, batch) if self._pool is None else self._pool.map(self.run, batch))

    def close(self) -> None:
        """End the threads that runs at once have."""
        if self._pool is not None:
            self._pool.shutdown()


class OnnxruntimeSession:
    """Export to ONNX, open an inference session."""

    name = "onnxruntime_session"
    requires = ("onnxruntime", "onnx", "torch")
    # Opset 11 is what Detectron2's export guide takes (STABLE_ONNX_OPSET_VERSION), 20 the last that the exporter knows.
    variants = (
        Variant("f32", build={"opset": 17}),
        Variant("f32_mended", build={"opset": 17, "mend": True}, mends="f32"),
        *(Variant(f"opset{opset}", build={"opset": opset}, base=False) for opset in (11, 16, 18, 19, 20)),
        Variant("unoptimised", build={"opset": 17}, open={"optimise": False}, base=False),
        Variant("pair_f32", build={"opset": 17, "images": 2}, base=False),
        Variant("threads", build={"opset": 17, "mend": True}, open={"own_threads": 2}, base=False),
        Variant("concurrent", build={"opset": 17, "mend": True}, open={"own_threads": 1, "at_once": 0}, base=False),
        Variant("tf32", build={"opset": 17}, open={"tf32": True}, precision="fp16", base=False),
        Variant("dynamo", build={"opset": 20, "dynamo": True}, base=False),
    )

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """CUDA needs the package that has the provider; torchvision's resize and Detectron2's keypoints need mending."""
        if device == "cuda" and not _installed("onnxruntime-gpu"):
            return "The installed onnxruntime has no CUDA provider; onnxruntime-gpu has."
        if device == "cpu" and variant.open.get("tf32"):
            return "TF32 is a mode of NVIDIA's GPUs."
        if variant.mends is not None and not _needs_mending(model):
            return (
                "Nothing to mend: what tracing gets wrong is torchvision's resize, what cannot be exported Detectron2's keypoints."
            )
        if variant.build.get("dynamo") and not present("onnxscript"):
            return "onnxscript, which the dynamo exporter needs, is not installed: pip install 'detection-harness[dynamo]'."
        return None

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Write ``model.onnx``, and the names of the graph's tensors beside it.

        ``variant.build``: ``opset``; ``mend``: torchvision's graph is told the size to resize to, Detectron2's ends at the heatmaps
        of keypoints; ``images`` 2: a graph that takes two at once; ``dynamo``: torch's default exporter.
        """
        mend, resized = variant.build.get("mend", False) and _needs_mending(model.spec), False
        graph = graph_of_two(model) if takes_two(variant) else model.graph
        if mend:
            resized = model.spec.family == "torchvision"
            graph = graph_with_size(model) if resized else graph_without_decoding(model)
        exporter = export_onnx(graph, artifact / _ONNX, variant.build["opset"], dynamo=variant.build.get("dynamo", False))
        Signature.of(graph, exporter, limits_px(model) if resized else None).write(artifact)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[GraphSession]:
        """Start a session. ``variant.open``: ``threads`` (0: the runtime's own number), ``optimise`` (False turns it off).

        ``own_threads`` of a variant go before the load's ``threads``; of several images ``at_once`` are run at the same time, with
        0 as many as there are cores; ``tf32`` allows CUDA's provider that.

        A provider that cannot start makes ONNX Runtime fall back to the CPU without an error: `OrtSession.effective` tells.
        """
        onnxruntime = quiet_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = variant.open.get("own_threads") or variant.open.get("threads", 0)
        at_once = variant.open.get("at_once", 1) or usable_cores()
        if not variant.open.get("optimise", True):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers: list[Any] = [_CPU]
        if device == "cuda":
            # Only libraries already in the process are found otherwise; torch ships the CUDA and cuDNN that fit it.
            onnxruntime.preload_dlls()
            providers.insert(0, (_CUDA, {"use_tf32": int(variant.open.get("tf32", False)), "cudnn_conv_algo_search": "HEURISTIC"}))
        onnx_file = artifact / _ONNX
        inference = onnxruntime.InferenceSession(str(onnx_file), options, providers=providers)
        with closing(OrtSession(inference, onnx_file, Signature.read(artifact), at_once)) as session:
            yield TwoImagesSession(session) if takes_two(variant) else session


def _needs_mending(model: ModelSpec) -> bool:
    return not has_one_size(model) if model.family == "torchvision" else "keypoints" in model.outputs


def _stored_precisions(onnx_file: Path) -> set[str]:
    """The classes of the stored arrays of more than one number; index arrays (int32, int64) and masks say nothing."""
    import onnx

    stored = onnx.load(str(onnx_file)).graph
    tensors = [*stored.initializer, *(a.t for node in stored.node for a in node.attribute if a.HasField("t"))]
    names = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in tensors if np.prod(tensor.dims, dtype=np.int64) > 1}
    return {_CLASSES[name] for name in names if name in _CLASSES} or {"fp32"}


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _runtime_version() -> str:
    return version("onnxruntime-gpu" if _installed("onnxruntime-gpu") else "onnxruntime")


ADAPTER = OnnxruntimeSession()
