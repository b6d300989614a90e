"""Backends and models by name.

Built-in backends and those of other packages are found through one entry-point group, ``harness.adapters``; a file that belongs
to no package is loaded by `load_adapter_file`. Finding imports no backend and no adapter; only `AdapterRef.load` does the latter.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.errors import UnknownName, UsageError
from harness.types import ModelSpec, Variant

if TYPE_CHECKING:
    from harness.adapters import Adapter

GROUP = "harness.adapters"
DISTRIBUTION = "detection-harness"
_METHODS = ("declines", "build", "open")


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A backend that is known by name but not yet imported.

    ``target`` is ``module:ATTRIBUTE`` or ``file.py:NAME`` (the file absolute); ``source`` names the package that announced it.
    """

    name: str
    target: str
    source: str

    def load(self) -> Adapter:
        """The adapter object. Raises `UsageError` when its module fails to import, lacks it, or it is no adapter."""
        if self.is_file:
            return load_adapter_file(self.target)
        where, _, attribute = self.target.partition(":")
        try:
            module = import_module(where)
        except Exception as error:  # an adapter is somebody else's code: whatever it raises becomes one clear sentence
            raise UsageError(f"adapter {self.name!r} of {self.source} does not import: {_said(error)}", _MEND_PACKAGE) from error
        return _checked(module, attribute or "ADAPTER", self.target, expected_name=self.name)

    @property
    def is_file(self) -> bool:
        """Whether the adapter is a file given on the command line."""
        return self.target.partition(":")[0].endswith(".py")


_MEND_PACKAGE = "Mend or uninstall that package; its entry point is in the group harness.adapters."


def checkout_root() -> Path | None:
    """The folder that holds pyproject.toml when this code runs from a checkout of this project, else None."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "fixtures").is_dir() else None


def adapters() -> dict[str, AdapterRef]:
    """Every announced backend by name, sorted: the built-in ones first, then other packages'.

    In a checkout the built-in ones are read from pyproject.toml itself, so that a new line counts at once, installed or not.
    Raises `UsageError` when two packages claim one name for different objects.
    """
    found: dict[str, AdapterRef] = {}
    for ref in (*_built_in(), *_of_other_packages()):
        known = found.setdefault(ref.name, ref)
        if known.target != ref.target:
            raise UsageError(
                f"two backends are named {ref.name!r}: {known.target} of {known.source} and {ref.target} of {ref.source}",
                "Uninstall one of the two packages, or rename its adapter and entry point.",
            )
    return found


def load_adapter(name: str) -> Adapter:
    """The backend of that name. Raises `UnknownName`, or `UsageError` as `AdapterRef.load` does."""
    known = adapters()
    if name not in known:
        raise UnknownName("backend", name, known)
    return known[name].load()


def load_adapter_file(target: str) -> Adapter:
    """The adapter ``file.py:NAME``; ``:NAME`` may be left out where it is ``ADAPTER``.

    The module is named by its path, so that the same file is imported once a process. Raises `UsageError`.
    """
    text, attribute = split_target(target)
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"adapter file {path} does not exist", "Give it as --adapter path/to/file.py:NAME.")
    name = f"harness_adapter_{sha256(str(path).encode()).hexdigest()[:12]}"
    module = sys.modules.get(name) or _imported(name, path)
    return _checked(module, attribute, target)


def file_ref(target: str) -> AdapterRef:
    """The reference to an adapter file, loaded once to learn its name; its path is made absolute, so that a worker finds it."""
    adapter = load_adapter_file(target)
    text, attribute = split_target(target)
    path = Path(text).expanduser().resolve()
    return AdapterRef(adapter.name, f"{path}:{attribute}", path.name)


def split_target(target: str) -> tuple[str, str]:
    """``file.py:NAME`` as (file, NAME); NAME is ADAPTER where it is left out. Raises `UsageError` when it is no Python file."""
    text, colon, attribute = target.rpartition(":")
    if not colon or attribute.endswith(".py"):
        text, attribute = target, "ADAPTER"
    if not text.endswith(".py") or not attribute.isidentifier():
        raise UsageError(f"--adapter {target!r} is not of the form file.py:NAME", "Example: --adapter my_backend.py:ADAPTER")
    return text, attribute


def models() -> Mapping[str, ModelSpec]:
    """Every model of the fixtures by id, in their order: those that ship, then those of full size."""
    shipped: Mapping[str, ModelSpec] = import_module("harness.fixtures.models").MODELS
    full_size: Mapping[str, ModelSpec] = import_module("harness.fixtures.full_size").FULL_SIZE
    return {**shipped, **full_size}


def load_model(name: str) -> ModelSpec:
    """The model of that id. Raises `UnknownName`."""
    known = models()
    if name not in known:
        raise UnknownName("model", name, known)
    return known[name]


def _built_in() -> Iterator[AdapterRef]:
    root = checkout_root()
    if root is None:
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
            if _distribution(point) == DISTRIBUTION:
                yield AdapterRef(point.name, point.value, DISTRIBUTION)
        return
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, value in sorted(project["entry-points"][GROUP].items()):
        yield AdapterRef(name, value, DISTRIBUTION)


def _of_other_packages() -> Iterator[AdapterRef]:
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        source = _distribution(point)
        if source != DISTRIBUTION:
            yield AdapterRef(point.name, point.value, source)


def _distribution(point: EntryPoint) -> str:
    return "an unnamed package" if point.dist is None else point.dist.name.lower().replace("_", "-")


def _imported(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"adapter file {path} cannot be imported", "It must be a Python source file.")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # as in AdapterRef.load
        del sys.modules[name]
        raise UsageError(f"adapter file {path} does not import: {_said(error)}", f"Try it alone: python {path}") from error
    return module


def _checked(module: ModuleType, attribute: str, target: str, expected_name: str | None = None) -> Adapter:
    adapter: Any = getattr(module, attribute, None)
    if adapter is None:
        raise UsageError(f"{target}: there is no {attribute} in it", "Name the adapter object: file.py:NAME or module:NAME.")
    fault = _fault(adapter)
    if fault:
        raise UsageError(f"{target} is no adapter: {fault}", "docs/adapters.md builds one in under 60 lines.")
    if expected_name is not None and adapter.name != expected_name:
        raise UsageError(
            f"{target} is named {adapter.name!r} but announced as {expected_name!r}",
            "The entry point's name must be the adapter's.",
        )
    return adapter  # type: ignore[no-any-return]


def _fault(adapter: Any) -> str:
    """What keeps an object from being a `harness.adapters.Adapter`, in words; empty when nothing does."""
    if isinstance(adapter, type):
        return f"it is the class {adapter.__name__}, not an object of it"
    name, requires, variants = (getattr(adapter, field, None) for field in ("name", "requires", "variants"))
    if not isinstance(name, str) or not name.isidentifier():
        return f"its name is {name!r}, not a word of letters, digits and underscores"
    if not isinstance(requires, tuple) or not all(isinstance(item, str) for item in requires):
        return f"its requires is {requires!r}, not a tuple of module names"
    if not isinstance(variants, tuple) or not variants or not all(isinstance(item, Variant) for item in variants):
        return f"its variants is {variants!r}, not a tuple of at least one Variant"
    ids = [item.id for item in variants]
    if len(set(ids)) != len(ids):
        return f"two of its variants have the same id: {', '.join(ids)}"
    missing = [method for method in _METHODS if not callable(getattr(adapter, method, None))]
    return f"it has no method {', '.join(missing)}" if missing else ""


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
