"""Fingerprints: of a live model and what was stored beside it, and of a folder."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Iterable, Iterator, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.environment import installed
from harness.types import Json, Restoration, TensorDigest

if TYPE_CHECKING:
    from harness.detections import Detections


def restoration(
    module: Any,
    config_text: str | None,
    attached: Mapping[str, Any],
    defaults_changed: Iterable[str] = (),
    versions: Mapping[str, str] | None = None,
) -> Restoration:
    """Fingerprint a ``torch.nn.Module``: every parameter and buffer, those that are not persistent too, under every name.

    ``module`` None is a store that gives back a graph, and what was stored beside it. ``attached`` is reduced by `comparable`;
    ``defaults_changed`` names the process-wide settings that opening changed; ``versions`` are those that were stored.
    """
    whole = Restoration(
        tensors=(),
        training=False,
        config=config_text,
        attached={str(key): comparable(value) for key, value in attached.items()},
        defaults_changed=tuple(defaults_changed),
        live=module is not None,
        versions=dict(versions or {}),
        versions_wrong=tuple(_wrong(versions or {})),
    )
    if module is None:
        return whole
    parameters = (_tensor(name, "parameter", tensor) for name, tensor in module.named_parameters(remove_duplicate=False))
    buffers = (_tensor(name, "buffer", tensor) for name, tensor in module.named_buffers(remove_duplicate=False))
    training = any(part.training for part in module.modules())
    return dataclasses.replace(whole, tensors=(*parameters, *buffers), training=training)


def _wrong(versions: Mapping[str, str]) -> Iterator[str]:
    """Who is asked has saved it too, with what is installed here."""
    for name, said in versions.items():
        true = platform.python_version() if name == "python" else installed(name)
        if said != true:
            yield f"{name} is said to have been {said}, it was {true or 'not installed'}"


def answer_sha256(answer: Detections) -> str:
    """SHA-256 of one answer: equal for answers that are equal in every bit, order and count."""
    total = sha256()
    for field in dataclasses.fields(answer):
        total.update(f"{field.name} {comparable(getattr(answer, field.name))!r}\n".encode())
    return total.hexdigest()


def _tensor(name: str, kind: str, tensor: Any) -> TensorDigest:
    held = tensor.detach().cpu().contiguous().reshape(-1)
    # As bytes, because numpy has no bfloat16; the dtype is taken from the tensor, because this module imports no torch.
    raw = held.view(held.new_empty(0).byte().dtype).numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorDigest(name, kind, dtype, tuple(tensor.shape), str(tensor.device), sha256(raw).hexdigest())


def comparable(value: Any, _above: tuple[int, ...] = ()) -> Json:
    """A JSON value that is equal for equal objects and different for different ones, in this process or another.

    Text, numbers, booleans, lists and dictionaries with text keys stand for themselves. Everything else becomes an object with
    one key that names its kind: arrays and tensors by dtype, shape and SHA-256, a ``CfgNode`` by its text, functions and
    classes by where they are defined, other objects by their type and attributes. (A dictionary that imitates such an object is
    not told from it.)
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if math.isfinite(value) else {"float": repr(value)}
    if id(value) in _above:
        return {"cycle": type(value).__qualname__}
    above = (*_above, id(value))
    if isinstance(value, Mapping) or type(value) in (list, tuple, set, frozenset):
        return _container(value, above)
    return _leaf(value) or _object(value, above)


def _container(value: Any, above: tuple[int, ...]) -> Json:
    if type(value) is list:
        return [comparable(item, above) for item in value]
    if isinstance(value, Mapping):
        if _is_config(value):
            return {"CfgNode": str(value.dump())}  # type: ignore[attr-defined]
        if all(isinstance(key, str) for key in value):
            return {key: comparable(item, above) for key, item in value.items()}
        return {"mapping": sorted(([comparable(k, above), comparable(v, above)] for k, v in value.items()), key=repr)}
    items = [comparable(item, above) for item in value]
    return {"tuple": items} if type(value) is tuple else {type(value).__name__: sorted(items, key=repr)}


def _is_config(value: Any) -> bool:
    return callable(getattr(value, "dump", None)) and any(base.__name__ == "CfgNode" for base in type(value).__mro__)


def _leaf(value: Any) -> Json:
    """What has no parts worth naming; None for any other object."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": {"length": len(value), "sha256": sha256(value).hexdigest()}}
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            return {"objects": {"shape": list(np.shape(value)), "items": [comparable(item) for item in array.flat]}}
        content = sha256(array.tobytes()).hexdigest()
        return {"array": {"dtype": str(array.dtype), "shape": list(np.shape(value)), "sha256": content}}
    if callable(getattr(value, "detach", None)) and hasattr(value, "new_empty"):
        tensor = _tensor("", "", value)
        return {"tensor": {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": tensor.sha256}}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"defined": f"{value.__module__}.{value.__qualname__}"}
    return None


def _object(value: Any, above: tuple[int, ...]) -> Json:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if dataclasses.is_dataclass(value):
        state = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "__dict__"):
        state = vars(value)
    else:
        slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
        state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    if state:
        return {"object": {"type": kind, "state": {str(key): comparable(item, above) for key, item in state.items()}}}
    # An address in the text would differ in every process.
    text = repr(value)
    return {"object": {"type": kind, "text": text if " at 0x" not in text else ""}}


def tree_sha256(folder: Path) -> str:
    """SHA-256 over the relative path and content of every file below ``folder``; a link counts as the text it holds."""
    total = sha256()
    for path in _files(folder):
        if path.is_symlink():
            content = sha256(f"link {path.readlink()}".encode()).hexdigest()
        else:
            with path.open("rb") as file:
                content = file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def tree_bytes(folder: Path) -> int:
    """The size of all files below ``folder``, in bytes; links are not followed."""
    return sum(path.lstat().st_size for path in _files(folder))


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
