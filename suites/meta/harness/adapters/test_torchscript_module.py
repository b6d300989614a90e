"""TorchScript: the trace answers as the live graph does, and needs none of the model's own code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.adapters import GraphSession
from harness.adapters.torchscript_module import ADAPTER
from harness.suites.meta.harness.adapters.graphs import Opened, eager, picker, picture

BASE = ADAPTER.variants[0]
_IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from harness.adapters.torchscript_module import ADAPTER
with ADAPTER.open(Path(sys.argv[1]), ADAPTER.variants[0], "cpu") as session:
    np.savez(sys.argv[2], **session.run({"image": np.load(sys.argv[3])}))
assert not [name for name in sys.modules if name.endswith("adapters.graphs")]
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    artifact, model = tmp_path_factory.mktemp("torchscript"), picker()
    ADAPTER.build(model, BASE, artifact)
    with ADAPTER.open(artifact, BASE, "cpu") as session:
        assert isinstance(session, GraphSession)
        yield Opened(session, model, ADAPTER, artifact)


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (7, 61), (150, 140)], ids=str)
def test_answers_are_the_live_graphs_bit_for_bit(opened: Opened, size: tuple[int, int]) -> None:
    given = picture(*size, seed=1)
    expected, answers = eager(opened.model, given), opened.session.run_many([given, given])
    assert len(expected["scores"]) > 3
    for answer in answers:
        for name, value in expected.items():
            np.testing.assert_array_equal(answer[name], value)


def test_it_opens_where_the_model_code_is_not(opened: Opened, tmp_path: Path) -> None:
    image, told = tmp_path / "image.npy", tmp_path / "answer.npz"
    np.save(image, picture(24, 32)["image"])
    command = [sys.executable, "-c", _IN_A_FRESH_PROCESS, str(opened.artifact), str(told), str(image)]
    subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, check=True, timeout=400)
    np.testing.assert_array_equal(np.load(told)["scores"], opened.session.run(picture(24, 32))["scores"])


def test_half_precision_weights_are_told(tmp_path: Path) -> None:
    import torch

    model = picker()
    model.module.register_buffer("kept_in_half", torch.zeros(2, dtype=torch.float16))
    ADAPTER.build(model, BASE, tmp_path)
    with ADAPTER.open(tmp_path, BASE, "cpu") as session:
        assert session.effective.precision == "fp16"
