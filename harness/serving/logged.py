"""Keep a detector behind DataFrames in the store, with a sample of what it takes, and bring it back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.serving.frames import IMAGE_COLUMN, DetectorFrames
from harness.serving.store import PlainStore

if TYPE_CHECKING:
    from harness.serving.tags import Tag

_METHOD = "predict"
_SAMPLES = "input_samples"


def user_store() -> PlainStore:
    """The store of whoever runs this: where ``BENTOML_HOME`` says, else ``~/bentoml``, as BentoML has it."""
    return PlainStore(Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml"))


def log_model(model_name: str, model: DetectorFrames, input_samples: Mapping[str, Any], store: PlainStore | None = None) -> Tag:
    """Store the detector under ``model_name`` (a new version, or ``name:version``) with the sample and what it answered.

    ``input_samples`` has the DataFrame for ``predict``; the signature is seen on it. ``store`` None is the user's own. Raises
    `UsageError` for samples of anything else, `harness.serving.frames.BadFrame` for one that cannot be predicted, and what
    `PlainStore.save` raises.
    """
    if set(input_samples) != {_METHOD}:
        raise UsageError(
            f"the samples are for {', '.join(sorted(input_samples)) or 'nothing'}", f"Give one DataFrame for {_METHOD!r}."
        )
    sample = input_samples[_METHOD]
    signature = model.signature(sample)
    attached = {
        **model.attached,
        "signatures": {**model.attached.get("signatures", {}), _METHOD: signature},
        "custom_objects": {
            **model.attached.get("custom_objects", {}),
            _SAMPLES: {_METHOD: {IMAGE_COLUMN: [str(text) for text in sample[IMAGE_COLUMN]]}},
        },
    }
    return (store or user_store()).save(model_name, replace(model, attached=attached))


def load_logged(tag: str, store: PlainStore | None = None, device: str = "cpu") -> tuple[DetectorFrames, Any]:
    """The detector and its sample, a DataFrame; found whole, nothing unpickled. Raises what `PlainStore.get` raises.

    An entry that was stored without a sample gives None for it.
    """
    import pandas as pd

    entry = (store or user_store()).get(tag)
    module, config = entry.load(device)
    samples = entry.attached["custom_objects"].get(_SAMPLES)
    return DetectorFrames(entry.spec, module, config, entry.attached), None if samples is None else pd.DataFrame(samples[_METHOD])
