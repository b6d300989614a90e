"""Errors without the folders of the machine they happened on: a page is published, and says nothing of anybody's home."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path

_PROJECT = Path(__file__).resolve().parent.parent


def redacted(text: str, folders: Mapping[str, str]) -> str:
    """``text`` with the interpreter's, this project's and these folders (path: word) replaced by words, inner folders first."""
    known = {
        sysconfig.get_path("purelib"): "site-packages",
        sysconfig.get_path("platlib"): "site-packages",
        sysconfig.get_path("stdlib"): "python",
        str(_PROJECT): "detection-harness",
        **folders,
    }
    for folder in sorted(known, key=len, reverse=True):
        text = text.replace(folder, known[folder]) if len(folder) > 1 else text
    return text
