"""Fingerprints are equal for equal things, different for different ones, in any process."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.digests import comparable, restoration, tree_bytes, tree_sha256

pytestmark = pytest.mark.covers("M21")

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_json_stands_for_itself(value: Any) -> None:
    assert comparable(value) == value
    assert json.loads(json.dumps(comparable(value))) == value


class CfgNode(dict):  # type: ignore[type-arg]
    """As yacs has it: a dictionary with a `dump`."""

    def dump(self) -> str:
        return "\n".join(f"{k}: {v}" for k, v in sorted(self.items()))


@dataclass
class Signature:
    batchable: bool
    batch_dim: tuple[int, int] = (0, 0)


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


def ring() -> list[Any]:
    """A list that holds itself."""
    made: list[Any] = [1]
    made.append(made)
    return made


DIFFERENT = [
    (1, 1.5),
    (True, 1.5),
    ((1, 2), [1, 2]),
    ({1, 2}, {1, 3}),
    ({1: "a"}, {1: "b"}),
    (b"ab", b"ac"),
    (b"ab", "ab"),
    (float("nan"), float("inf")),
    (np.float32(1), np.float64(1)),
    (np.zeros(4, np.float32), np.zeros((2, 2), np.float32)),
    (np.zeros(4, np.float32), np.zeros(4, np.int32)),
    (np.zeros(2), np.array([0.0, 1e-300])),
    (CfgNode(a=1), CfgNode(a=2)),
    (CfgNode(a=1), {"a": 1}),
    (Signature(batchable=True), Signature(batchable=False)),
    (Plain(1), Plain(2)),
    (Plain(1), Signature(batchable=True)),
    (os.path.join, os.path.split),
    (Path("a"), Path("b")),
    (ring(), [1, [1]]),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=range(len(DIFFERENT)))
def test_different_things_differ_and_equal_ones_do_not(one: Any, other: Any) -> None:
    assert json.dumps(comparable(one)) == json.dumps(comparable(one))
    assert comparable(one) != comparable(other)


def test_equal_objects_made_apart_are_equal() -> None:
    assert comparable(Plain([1, np.ones(3)])) == comparable(Plain([1, np.ones(3)]))
    assert comparable(OrderedDict(b=1, a=2)) == comparable({"a": 2, "b": 1})
    assert comparable({3, 1, 2}) == comparable({2, 3, 1})
    assert "0x" not in json.dumps(comparable(object()))


def test_a_real_detectron2_config_is_kept_as_text() -> None:
    config = pytest.importorskip("detectron2.config").get_cfg()
    assert comparable(config) == {"CfgNode": config.dump()}


def network() -> Any:
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    module.register_buffer("anchors", torch.arange(3.0), persistent=False)
    module.register_buffer("brain", torch.ones(2, dtype=torch.bfloat16))
    module.register_buffer("nothing", torch.zeros(0))
    return module


def test_every_tensor_is_there_those_that_are_not_saved_too() -> None:
    import torch

    module = network()
    found = {tensor.name: tensor for tensor in restoration(module, "text", {"labels": {"a": "b"}}).tensors}
    assert {"0.weight", "1.running_var", "1.num_batches_tracked", "anchors", "brain", "nothing"} <= set(found)
    assert (found["brain"].dtype, found["0.weight"].shape, found["1.num_batches_tracked"].shape) == ("bfloat16", (2, 1, 3, 3), ())
    assert (found["0.weight"].kind, found["anchors"].kind, found["anchors"].device) == ("parameter", "buffer", "cpu")
    before = found["anchors"].sha256
    module.anchors[1] = torch.nextafter(module.anchors[1], torch.tensor(9.0))
    after = {tensor.name: tensor.sha256 for tensor in restoration(module, None, {}).tensors}
    assert after["anchors"] != before
    assert after["0.weight"] == found["0.weight"].sha256


def test_memory_layout_does_not_matter_and_shared_tensors_are_seen_under_each_name() -> None:
    import torch

    module = network()
    before = restoration(module, None, {})
    assert restoration(module.to(memory_format=torch.channels_last), None, {}) == before
    shared = torch.nn.ModuleList([torch.nn.Linear(2, 2)] * 2)
    assert len(restoration(shared, None, {}).tensors) == 4


def test_one_layer_in_training_mode_is_training() -> None:
    module = network()
    assert not restoration(module, None, {}).training
    module[1].train()
    assert restoration(module, None, {}).training


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    def tree(name: str, files: dict[str, bytes]) -> Path:
        for path, content in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(content)
        return tmp_path / name

    one = tree("one", {"a": b"12", "b/c": b"345"})
    assert tree_sha256(one) == tree_sha256(tree("same", {"b/c": b"345", "a": b"12"}))
    assert tree_bytes(one) == 5
    others = [
        {"a": b"13", "b/c": b"345"},
        {"a": b"12", "b/d": b"345"},
        {"a": b"12"},
        {"a": b"12", "bc": b"345"},
        {"a": b"12b/c", "b": b""},
    ]
    digests = {tree_sha256(tree(f"other{i}", files)) for i, files in enumerate(others)}
    assert len(digests | {tree_sha256(one)}) == len(others) + 1


def test_a_link_counts_as_its_text_and_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x" * 1000)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to("../outside")
    before = tree_sha256(folder)
    assert tree_bytes(folder) < 100
    (tmp_path / "outside").write_bytes(b"y")
    assert tree_sha256(folder) == before
