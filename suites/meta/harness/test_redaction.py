"""What is published names no folder of the machine."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

from harness.redaction import redacted


def test_a_message_loses_its_terminal_codes() -> None:
    assert redacted("\x1b[1mdo not\x1b[0m trust \x1b[38;5;9mit", {}) == "do not trust it"


def test_a_traceback_keeps_its_files_and_loses_their_folders(tmp_path: Path) -> None:
    try:
        json.loads("{")
    except ValueError as error:
        told = "".join(traceback.format_exception(error)) + f"\nread {tmp_path / 'cache' / 'source' / 'model.pth'}"
    plain = redacted(told, {str(tmp_path): "elsewhere", str(tmp_path / "cache"): "cache"})
    assert "python/json/decoder.py" in plain
    assert "read cache/source/model.pth" in plain
    assert "detection-harness/suites/meta/harness/test_redaction.py" in plain or "site-packages/harness/suites" in plain
    assert str(tmp_path) not in plain
    assert str(Path(json.__file__).parent) not in plain
