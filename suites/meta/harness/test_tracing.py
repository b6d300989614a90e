"""Expected warnings are silenced one by one; the names of a graph survive on disk."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from harness.tracing import Signature, expected_warnings


def test_signature_comes_back_from_disk(tmp_path: Path) -> None:
    signature = Signature(("image", "scale"), ("boxes", "scores"), "an exporter 1.0")
    signature.write(tmp_path)
    assert Signature.read(tmp_path) == signature


def test_expected_warnings_are_silent_and_all_others_come_through() -> None:
    from torch.jit import TracerWarning

    with expected_warnings():
        warnings.warn("Converting a tensor to a Python boolean", TracerWarning, stacklevel=1)
        warnings.warn("`torch.jit.trace` is deprecated. Please switch", FutureWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="this model is broken"), expected_warnings():
        warnings.warn("this model is broken", UserWarning, stacklevel=1)
