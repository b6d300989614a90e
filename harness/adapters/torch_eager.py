"""The reference: the family's own model in eager PyTorch, at full fp32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from harness.adapters import Restored
from harness.errors import HarnessError
from harness.families import family
from harness.types import Effective, ModelSpec, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model

_TENSORS = "tensors.safetensors"
_SPEC = "spec.json"
_CLASSES = {"float64": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
_FROM_LOWEST = ("int8", "bf16", "fp16", "fp32")


@contextmanager
def full_fp32() -> Iterator[None]:
    """TF32, autotuning and autocast off for as long as a session is open; the process gets its own settings back."""
    import torch

    off = _set(*_tf32(False), (torch.backends.cudnn, "benchmark", False))
    with off, torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        yield


def _tf32(allowed: bool) -> tuple[tuple[Any, str, bool], ...]:
    import torch

    return (torch.backends.cuda.matmul, "allow_tf32", allowed), (torch.backends.cudnn, "allow_tf32", allowed)


@contextmanager
def _set(*settings: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of owners, by name, as given; inside, and as they were again behind it."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def effective_of(module: Any, provider: str, packages: Sequence[str], gave: Iterable[Any] = ()) -> Effective:
    """What a live module on this process's PyTorch says of itself.

    ``precision`` is the lowest class among the module's floating parameters and buffers, autocast, TF32 (which keeps ten
    bits of the mantissa, as fp16 does) and ``gave``, types in which layers were seen to answer; ``device`` is where the tensors
    are, several joined by ``+``; ``packages`` are the distributions whose versions are recorded.
    """
    import torch

    tensors = [*module.parameters(), *module.buffers()]
    devices = sorted({tensor.device.type for tensor in tensors})
    # A stage of a detector may hold no number at all: it computes in its inputs' float32.
    kinds = {_class(tensor.dtype) for tensor in tensors if tensor.is_floating_point()} or {"fp32"}
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    autocast = [kind for kind in devices if torch.is_autocast_enabled(kind)]
    if "cuda" in devices:
        kinds |= {"fp16"} if tf32 else set()
    kinds |= {_class(kind) for kind in (*map(torch.get_autocast_dtype, autocast), *gave)}
    switches = {"TF32": tf32, "autotuning": torch.backends.cudnn.benchmark, "autocast": bool(autocast)}
    said = ", ".join(f"{name} {'on' if value else 'off'}" for name, value in switches.items())
    return Effective(
        precision=min(kinds, key=_FROM_LOWEST.index),
        device="+".join(devices),
        provider=f"{provider} ({said})",
        threads=torch.get_num_threads(),
        versions={package: version(package) for package in packages},
    )


def _is_channels_last(module: Any) -> bool:
    """Whether some weight lies so; of those of 1 x 1 both ways are one."""
    import torch

    return any(
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
        for tensor in module.parameters()
    )


def _class(dtype: Any) -> str:
    return _CLASSES[str(dtype).removeprefix("torch.")]


def state_of(module: Any) -> dict[str, Any]:
    """Every parameter and buffer by name, those included that ``state_dict`` leaves out (non-persistent buffers)."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}


class LayersInBf16:
    """From now on a module's convolutions and linear layers work under autocast to bf16, and what they give is float32 again.

    All between the layers, the making of boxes and the pasting of masks above all, stays in float32. ``gave`` holds the types in
    which layers did answer.
    """

    def __init__(self, module: Any) -> None:
        from torch.nn import Conv2d, ConvTranspose2d, Linear

        self.gave: set[Any] = set()
        for layer in module.modules():
            if isinstance(layer, (Conv2d, ConvTranspose2d, Linear)):
                layer.forward = partial(self._answer, layer.forward)

    def _answer(self, forward: Callable[..., Any], given: Any, *rest: Any) -> Any:
        import torch

        with torch.autocast(given.device.type, torch.bfloat16):
            answer = forward(given, *rest)
        self.gave.add(answer.dtype)
        return answer.float()


class EagerSession:
    """A live module that the family feeds and reads."""

    batching = "one tensor of equally sized images"

    def __init__(self, spec: ModelSpec, module: Any, config: Any, options: Mapping[str, Any]) -> None:
        self._spec, self._module, self._config, self._options = spec, module, config, options
        self._margins = bool(options.get("margins", False))
        self._layers = LayersInBf16(module) if options.get("layers_in_bf16") else None

    @property
    def effective(self) -> Effective:
        """Read back from the module's tensors, PyTorch's switches and what layers in bf16 answered until now."""
        backbone = getattr(self._module, "backbone", None)
        compiled = getattr(backbone, "_compiled_call_impl", None) is not None
        how = "PyTorch, backbone compiled" if compiled else "PyTorch eager"
        how += ", channels last" if _is_channels_last(self._module) else ""
        with self._in_force():
            return effective_of(self._module, how, ("torch", self._spec.family), self._layers.gave if self._layers else ())

    @property
    def restored(self) -> Restored:
        """The module, the configuration it was made from, and what a variant has in force."""
        return Restored(self._module, self._config, in_force=self._in_force)

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """`Family.predict`."""
        with self._in_force():
            return family(self._spec.family).predict(self._module, self._config, images, self._margins)

    def predict_mixed(self, images: Sequence[Pixels]) -> list[Detections]:
        """`Family.predict`, all images in one call of the module."""
        with self._in_force():
            return family(self._spec.family).predict(self._module, self._config, images, self._margins, mixed=True)

    def _in_force(self) -> AbstractContextManager[None]:
        """What a variant other than the reference changes of the process, for as long as it answers."""
        if {"autocast", "tf32", "torch_threads"}.isdisjoint(self._options):
            return nullcontext()
        return _switched(next(self._module.parameters()).device.type, self._options)


@contextmanager
def _switched(device: str, options: Mapping[str, Any]) -> Iterator[None]:
    import torch

    kind, before = options.get("autocast"), torch.get_num_threads()
    torch.set_num_threads(options.get("torch_threads", before))
    try:
        with (
            _set(*(_tf32(True) if options.get("tf32") else ())),
            torch.autocast(device, getattr(torch, kind or "bfloat16"), enabled=kind is not None),
        ):
            yield
    finally:
        torch.set_num_threads(before)


class TorchEager:
    """Every tensor in one safetensors file beside the spec; opening builds the module anew and fills it, strictly."""

    name = "torch_eager"
    requires = ("torch", "safetensors")
    # The load's own number of threads is the harness's; two are what this variant is about.
    variants = (
        Variant("fp32"),
        Variant("threads", open={"torch_threads": 2}, base=False),
        Variant("bf16", open={"autocast": "bfloat16"}, precision="bf16", base=False),
        Variant("bf16_mended", open={"layers_in_bf16": True}, precision="bf16", base=False, mends="bf16"),
        Variant("fp16", open={"autocast": "float16"}, precision="fp16", base=False),
        Variant("tf32", open={"tf32": True}, precision="fp16", base=False),
        Variant("channels_last", open={"channels_last": True}, base=False),
        Variant("compiled", open={"compile": True}, base=False),
    )

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Compiling needs a compiler; half precision and TF32 are asked of GPUs."""
        if device == "cpu" and variant.open.get("tf32"):
            return "TF32 is a mode of NVIDIA's GPUs."
        if device == "cpu" and variant.open.get("autocast") == "float16":
            return "Autocast to fp16 is asked of GPUs; the half precision that CPUs compute in is bf16."
        if variant.open.get("compile") and not (which("g++") or which("clang++")):
            return "torch.compile writes C++, and there is no g++ or clang++ here to compile it."
        return None

    def keeps(self, variant: Variant) -> tuple[str, ...]:
        """The configuration, which the spec makes again."""
        return ("config",)

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Write ``tensors.safetensors`` and ``spec.json``."""
        from safetensors.torch import save_file

        # Clones: safetensors refuses tensors that share memory, and two names of one tensor are two entries here.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_of(model.module).items()}
        save_file(tensors, artifact / _TENSORS)
        (artifact / _SPEC).write_text(json.dumps(asdict(model.spec), default=dict, indent=1))

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[EagerSession]:
        """The module in eval mode on ``device``. Raises `HarnessError` unless every tensor fits, name by name.

        ``variant.open``: ``margins``, as `Family.predict` has it; ``torch_threads``; ``autocast``: to which type; ``tf32``:
        allowed; ``channels_last``: how convolutions' weights lie, which their answers follow; ``layers_in_bf16``: `LayersInBf16`;
        ``compile``: the backbone, for pictures of any size, while the first are answered. Whole detectors of torchvision's cannot
        be: ``docs/findings/torchvision_compile_second_size.py``.
        """
        import torch
        from safetensors.torch import load_file

        spec = read_spec(artifact / _SPEC)
        module, config = family(spec.family).construct(spec)
        fill(module, load_file(artifact / _TENSORS))
        with full_fp32():
            module.to(device).eval()
            if variant.open.get("channels_last"):
                module.to(memory_format=torch.channels_last)
            if variant.open.get("compile"):
                module.backbone.compile(dynamic=True)
            yield EagerSession(spec, module, config, variant.open)


def fill(module: Any, tensors: Mapping[str, Any]) -> None:
    """Copy stored tensors into a module. Raises `HarnessError` unless names, shapes and dtypes are the module's own."""
    import torch

    targets = state_of(module)
    if targets.keys() != tensors.keys():
        raise HarnessError(f"stored and built tensors differ in {sorted(targets.keys() ^ tensors.keys())[:5]}")
    with torch.no_grad():
        for name, target in targets.items():
            stored = tensors[name]
            if target.shape != stored.shape or target.dtype != stored.dtype:
                raise HarnessError(f"{name} is {stored.dtype} {list(stored.shape)}, not {target.dtype} {list(target.shape)}")
            target.copy_(stored)


def read_spec(path: Path) -> ModelSpec:
    """The spec that was written as JSON (`dataclasses.asdict`)."""
    return ModelSpec.read(json.loads(path.read_text()))


ADAPTER = TorchEager()
