"""The machine and the versions: facts that a page can be believed on."""

from __future__ import annotations

import dataclasses
import os
from importlib.metadata import version

import pytest

from harness import environment
from harness.environment import Machine, compared, constraints, machine, versions

PLAIN = Machine("a processor", ("avx2",), 2, 8 * 1024**3, "a system", "CPython 3.11", (), "no GPU")


def test_the_machine_is_this_one() -> None:
    here = machine()
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.memory_bytes > 256 * 1024**2
    assert here.cpu
    assert here.gpus or here.gpu_note
    assert machine().fingerprint == here.fingerprint


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"cores": 4}, {"gpus": ("one",)}, {"python": "CPython 3.12"}])
def test_another_machine_has_another_fingerprint(change: dict[str, object]) -> None:
    assert dataclasses.replace(PLAIN, **change).fingerprint != PLAIN.fingerprint  # type: ignore[arg-type]


def test_a_few_bytes_of_memory_make_no_other_machine() -> None:
    # what the kernel keeps for itself changes between boots
    assert dataclasses.replace(PLAIN, memory_bytes=PLAIN.memory_bytes - 12345).fingerprint == PLAIN.fingerprint


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["torch"].split("+")[0].count(".") == 2
    assert None not in found.values()
    assert list(found)[:2] == ["torch", "torchvision"]


def test_the_distributions_of_a_backends_modules_are_among_the_versions() -> None:
    found = versions(["filelock", "PIL.Image", "nothing_of_that_name"])
    assert found["filelock"] == version("filelock")
    assert found["pillow"] == version("pillow")
    assert "nothing_of_that_name" not in found


def test_the_pinned_versions_are_inside() -> None:
    pins = constraints()
    assert compared({"torch": pins["torch"], "numpy": pins["numpy"]}, pins).inside is True


def test_a_local_build_of_a_pinned_version_is_inside() -> None:
    assert compared({"torch": "2.15.0+cu130"}, {"torch": "2.15.0"}).inside is True


def test_another_version_is_outside_and_named() -> None:
    found = compared({"torch": "1.13.1", "numpy": "2.0"}, {"torch": "2.15.0", "numpy": "2.0"})
    assert found == environment.Tested(False, ("torch 1.13.1 (tested: 2.15.0)",))
    assert "outside" in str(found)
    assert "torch 1.13.1" in str(found)


def test_a_name_is_compared_however_it_is_written() -> None:
    assert compared({"faster_coco.eval": "1.0"}, {"faster-coco-eval": "2.0"}).inside is False


def test_what_is_not_pinned_says_nothing() -> None:
    assert compared({"detectron2": "0.6", "detection-harness": "0.1.0"}, {"torch": "2.15.0"}).inside is True


def test_without_constraints_it_is_unknown_not_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "constraints_file", lambda: None)
    assert environment.tested().inside is None
    assert "unknown" in str(environment.tested())
