"""What is stored beside a detector as JSON and arrays of numbers: what would not come back equal is refused, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.digests import comparable
from harness.errors import UsageError

_BATCH_DIM = "batch_dim"
_ARRAY = "\0array"
"""The only key of a dictionary that stands for an array; a caller's own with that key is refused."""


def json_kept(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON keeps it. Raises `UsageError` naming the key whose value would not come back equal."""
    for key, item in value.items():
        try:
            same = comparable(json.loads(json.dumps({key: item}))) == comparable({key: item})
        except (TypeError, ValueError):
            same = False
        if not same:
            raise UsageError(
                f"{kind}: {key!r} is not kept by JSON", "Use text, whole and fractional numbers, lists and dictionaries."
            )
    return dict(value)


def written_signatures(signatures: Mapping[str, Any]) -> dict[str, Any]:
    """Signatures as JSON; their one tuple, which is how BentoML gives a ``batch_dim``, as a list. Raises `UsageError`."""
    written = json_kept("signatures", _batch_dims(signatures, tuple, list))
    for name, signature in signatures.items():
        if comparable(read_signatures(written)[name]) != comparable(signature):
            raise UsageError(f"signatures: the {_BATCH_DIM} of {name!r} comes back as a tuple", "Give a whole number or a tuple.")
    return written


def read_signatures(written: Mapping[str, Any]) -> dict[str, Any]:
    """What `written_signatures` wrote."""
    return _batch_dims(written, list, tuple)


def _batch_dims(signatures: Mapping[str, Any], kind: type, into: type) -> dict[str, Any]:
    def turned(signature: Any) -> Any:
        found = signature.get(_BATCH_DIM) if isinstance(signature, Mapping) else None
        return {**signature, _BATCH_DIM: into(found)} if type(found) is kind else signature

    return {name: turned(signature) for name, signature in signatures.items()}


def plain_objects(objects: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Custom objects as JSON, and their arrays by name. Raises `UsageError` naming what would not come back equal."""
    arrays: dict[str, Any] = {}

    def kept(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError("an array of objects")
            arrays[f"array{len(arrays)}"] = value
            return {_ARRAY: f"array{len(arrays) - 1}"}
        if type(value) is dict:
            return {key: kept(item) for key, item in value.items()}
        return [kept(item) for item in value] if type(value) is list else value

    plain = {}
    for name, value in objects.items():
        try:
            plain[name] = kept(value)
            same = comparable(live_objects(json.loads(json.dumps(plain[name])), arrays)) == comparable(value)
        except (TypeError, ValueError, LookupError, RecursionError):
            same = False
        if not same:
            cure = "It keeps JSON values and arrays of numbers: turn it into these, or store it as code."
            raise UsageError(f"custom object {name!r}, a {type(value).__name__}, cannot be kept without pickling", cure)
    return plain, arrays


def live_objects(plain: Any, arrays: Mapping[str, Any]) -> Any:
    """What `plain_objects` wrote. Raises KeyError or TypeError for an array that is not there."""
    if isinstance(plain, dict):
        return (
            arrays[plain[_ARRAY]] if plain.keys() == {_ARRAY} else {key: live_objects(item, arrays) for key, item in plain.items()}
        )
    return [live_objects(item, arrays) for item in plain] if isinstance(plain, list) else plain
