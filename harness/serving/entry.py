"""One entry of the plain store: how a detector lies in a folder, and how it is read back without running anything of it.

``tensors.safetensors`` has every parameter and buffer, ``detector.json`` all that is text and numbers, ``objects.npz`` the arrays
among the custom objects.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Protocol

import numpy as np

from harness.errors import HarnessError, UsageError
from harness.families import family
from harness.integrity import Damaged
from harness.serving.attachments import json_kept, live_objects, plain_objects, read_signatures, written_signatures
from harness.serving.tags import Tag
from harness.types import ModelSpec

DETECTOR = "detector.json"
_TENSORS = "tensors.safetensors"
_OBJECTS = "objects.npz"
_SCHEMA_VERSION = 1

_KINDS: dict[str, type | tuple[type, ...]] = {
    "created": str,
    "config": (str, type(None)),
    "config_text": str,
    "labels": dict,
    "metadata": dict,
    "signatures": dict,
    "custom_objects": dict,
    "versions": dict,
}
"""What ``detector.json`` must have, besides its schema version, its specification and its tag."""

_ANEW = "Nothing of it was loaded. Save the model again, or take a whole copy."


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An entry that was found whole. ``attached`` has what was stored beside the model, under the keys of `Model.attached`.

    ``versions`` are of the packages that it was saved with.
    """

    tag: Tag
    folder: Path
    spec: ModelSpec
    config: str | None
    config_text: str
    created: str
    versions: Mapping[str, str]
    attached: Mapping[str, Any] = field(default_factory=dict)

    def differing(self) -> list[str]:
        """What it was saved with and what is installed here, where these differ, a sentence a package."""
        here = _versions(self.versions)
        return [
            f"{name} {was} when it was saved, {here.get(name, 'not installed')} here"
            for name, was in self.versions.items()
            if here.get(name) != was
        ]

    def load(self, device: str = "cpu") -> tuple[Any, Any]:
        """The module in eval mode on ``device``, and its configuration. Raises `HarnessError` unless every tensor fits, by name.

        `Damaged` where the tensors cannot be read at all.

        Of a configuration that plain text cannot hold the spec's own is made again, and must be equal.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from harness.adapters.torch_eager import fill

        kind = family(self.spec.family)
        if self.config is None:
            module, config = kind.construct(self.spec)
            if kind.config_text(config) != self.config_text:
                raise HarnessError(
                    f"{self.tag} was saved with another configuration than its specification makes here",
                    "Detectron2's version, or the file that it was read from, is another: compare them.",
                )
        else:
            config = kind.config_of(self.config)
            module = kind.module_of(config)
        try:
            tensors = load_file(self.folder / _TENSORS)
        except (SafetensorError, OSError) as error:
            raise _unreadable(_TENSORS, self.folder, error) from error
        fill(module, tensors)
        return module.to(device).eval(), config


class Storable(Protocol):
    """What can be stored: a `harness.families.Model`, or whatever has these of it."""

    @property
    def spec(self) -> ModelSpec:
        """Its specification."""

    @property
    def module(self) -> Any:
        """The live ``torch.nn.Module``."""

    @property
    def config(self) -> Any:
        """The family's configuration object."""

    @property
    def attached(self) -> Mapping[str, Any]:
        """What is stored beside it, under the keys of `Model.attached`."""


def kept(model: Storable) -> Kept:
    """What the store will keep of a model. Raises `UsageError` for an attachment that cannot be kept without pickling."""
    labels, metadata = (json_kept(key, model.attached.get(key) or {}) for key in ("labels", "metadata"))
    signatures = written_signatures(model.attached.get("signatures") or {})
    plain, arrays = plain_objects(model.attached.get("custom_objects") or {})
    return Kept(model, labels, metadata, signatures, plain, arrays)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A model and what is stored beside it, known to come back equal."""

    model: Storable
    labels: Mapping[str, Any]
    metadata: Mapping[str, Any]
    signatures: Mapping[str, Any]
    objects: Mapping[str, Any]
    arrays: Mapping[str, Any]

    def write(self, folder: Path, tag: str) -> None:
        """Write the entry's own files into ``folder``."""
        from safetensors.torch import save_file

        from harness.adapters.torch_eager import state_of

        model, kind = self.model, family(self.model.spec.family)
        # Clones: safetensors refuses tensors that share memory, and two names of one tensor are two entries here.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_of(model.module).items()}
        save_file(tensors, folder / _TENSORS)
        if self.arrays:
            np.savez(folder / _OBJECTS, allow_pickle=False, **self.arrays)
        document = {
            "schema_version": _SCHEMA_VERSION,
            "tag": tag,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "spec": json.loads(json.dumps(asdict(model.spec), default=dict)),
            "config": kind.written_config(model.config),
            "config_text": kind.config_text(model.config),
            "labels": self.labels,
            "metadata": self.metadata,
            "signatures": self.signatures,
            "custom_objects": self.objects,
            "versions": _versions(("detection-harness", "bentoml", "safetensors", *kind.requires)),
        }
        (folder / DETECTOR).write_text(json.dumps(document, indent=1), encoding="utf-8")


def document_of(folder: Path) -> dict[str, Any]:
    """``detector.json``, everything in it of the kind that it must be. Raises `Damaged` where it is none of this version."""
    try:
        document = json.loads((folder / DETECTOR).read_text(encoding="utf-8"))
        if document["schema_version"] != _SCHEMA_VERSION:
            raise Damaged(f"{folder.name} is of schema version {document['schema_version']}", "Use a newer detection-harness.")
        ModelSpec.read(document["spec"])
        Tag.read(str(document["tag"]))
        for key, kind in _KINDS.items():
            if not isinstance(document[key], kind):
                raise TypeError(f"{key} is a {type(document[key]).__name__}")
    except (KeyError, TypeError, ValueError, OSError, RecursionError, UsageError) as error:
        raise _unreadable(DETECTOR, folder, error) from error
    else:
        return dict(document)


def read_entry(tag: Tag, folder: Path) -> Entry:
    """The entry in ``folder``, which must have been found whole. Raises `Damaged` where it is not the one of that tag."""
    document = document_of(folder)
    if str(document["tag"]) != str(tag):
        raise Damaged(f"what lies at {tag} was saved as {document['tag']}", "Folders were moved by hand: put them back.")
    arrays = _arrays(folder)
    try:
        objects = live_objects(document["custom_objects"], arrays)
    except (KeyError, TypeError) as error:
        raise Damaged(f"{DETECTOR} of {folder.name} names an array that {_OBJECTS} does not have: {error}", _ANEW) from error
    return Entry(
        tag,
        folder,
        ModelSpec.read(document["spec"]),
        document["config"],
        document["config_text"],
        document["created"],
        document["versions"],
        {
            "labels": document["labels"],
            "metadata": document["metadata"],
            "signatures": read_signatures(document["signatures"]),
            "custom_objects": objects,
        },
    )


def _arrays(folder: Path) -> dict[str, Any]:
    """The arrays of ``objects.npz``, by name; numpy refuses what it would have to unpickle. Raises `Damaged`."""
    if not (folder / _OBJECTS).is_file():
        return {}
    try:
        with (folder / _OBJECTS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    # A file that is one array opens as that array, which is no context.
    except (ValueError, TypeError, AttributeError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(_OBJECTS, folder, error) from error


def _unreadable(name: str, folder: Path, error: Exception) -> Damaged:
    return Damaged(f"{name} of {folder.name} cannot be read: {type(error).__name__}: {error}", _ANEW)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        if name == "python":
            continue
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return {"python": python_version(), **found}
