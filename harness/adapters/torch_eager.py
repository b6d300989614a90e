"""The reference: the family's own model in eager PyTorch, at full fp32."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters import Restored
from harness.errors import HarnessError
from harness.families import family
from harness.types import Effective, ModelSpec, Variant, Weights

if TYPE_CHECKING:
    from harness.families import Model
    from harness.types import Detections, Pixels

_TENSORS = "tensors.safetensors"
_SPEC = "spec.json"
_CLASSES = {"float64": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
_FROM_LOWEST = ("int8", "bf16", "fp16", "fp32")


@contextmanager
def full_fp32() -> Iterator[None]:
    """TF32, autotuning and autocast off for as long as a session is open; the process gets its own settings back."""
    import torch

    switches = (
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
    )
    before = [getattr(owner, name) for owner, name in switches]
    try:
        for owner, name in switches:
            setattr(owner, name, False)
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for (owner, name), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def effective_of(module: Any, provider: str, packages: Sequence[str]) -> Effective:
    """What a live module on this process's PyTorch says of itself.

    ``precision`` is the lowest class among the module's floating parameters and buffers, autocast and TF32 (which keeps ten
    bits of the mantissa, as fp16 does); ``device`` is where the tensors are, several joined by ``+``; ``packages`` are the
    distributions whose versions are recorded.
    """
    import torch

    tensors = [*module.parameters(), *module.buffers()]
    devices = sorted({tensor.device.type for tensor in tensors})
    kinds = {_CLASSES[str(t.dtype).removeprefix("torch.")] for t in tensors if t.is_floating_point()}
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    autocast = [kind for kind in devices if torch.is_autocast_enabled(kind)]
    if "cuda" in devices:
        kinds |= {"fp16"} if tf32 else set()
    kinds |= {_CLASSES[str(torch.get_autocast_dtype(kind)).removeprefix("torch.")] for kind in autocast}
    switches = {"TF32": tf32, "autotuning": torch.backends.cudnn.benchmark, "autocast": bool(autocast)}
    said = ", ".join(f"{name} {'on' if value else 'off'}" for name, value in switches.items())
    return Effective(
        precision=min(kinds, key=_FROM_LOWEST.index),
        device="+".join(devices),
        provider=f"{provider} ({said})",
        threads=torch.get_num_threads(),
        versions={package: version(package) for package in packages},
    )


def state_of(module: Any) -> dict[str, Any]:
    """Every parameter and buffer by name, those included that ``state_dict`` leaves out (non-persistent buffers)."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}


class EagerSession:
    """A live module that the family feeds and reads."""

    batching = "one tensor of equally sized images"

    def __init__(self, spec: ModelSpec, module: Any, config: Any, margins: bool) -> None:
        self._spec, self._module, self._config, self._margins = spec, module, config, margins

    @property
    def effective(self) -> Effective:
        """Read back from the module's tensors and PyTorch's switches."""
        return effective_of(self._module, "PyTorch eager", ("torch", self._spec.family))

    @property
    def restored(self) -> Restored:
        """The module and the configuration it was made from."""
        return Restored(self._module, self._config)

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """`Family.predict`."""
        return family(self._spec.family).predict(self._module, self._config, images, self._margins)


class TorchEager:
    """Every tensor in one safetensors file beside the spec; opening builds the module anew and fills it, strictly."""

    name = "torch_eager"
    requires = ("torch", "safetensors")
    variants = (Variant("fp32"),)

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Nothing: this is the reference."""
        return None

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

        ``variant.open``: ``margins``, as `Family.predict` has it.
        """
        from safetensors.torch import load_file

        spec = read_spec(artifact / _SPEC)
        module, config = family(spec.family).construct(spec)
        _fill(module, load_file(artifact / _TENSORS))
        with full_fp32():
            yield EagerSession(spec, module.to(device).eval(), config, bool(variant.open.get("margins", False)))


def _fill(module: Any, tensors: dict[str, Any]) -> None:
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
    raw = json.loads(path.read_text())
    return ModelSpec(**{**raw, "weights": Weights(**raw["weights"]), "classes": tuple(raw["classes"])})


ADAPTER = TorchEager()
