"""What a GPU says of itself: with a driver that is made up, and without any."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from harness.device_meter import device_meter
from harness.timings import Used

pytestmark = pytest.mark.covers("M19")


class NVMLError(Exception):
    """What the management library raises."""


class Driver:
    """A made-up management library: two devices, of which the second works; ``silent`` are calls that it does not know."""

    def __init__(self, *silent: str, devices: int = 2) -> None:
        self.held, self.spent_mj, self.open, self.asked = 3 << 30, 5000, 0, []  # type: ignore[var-annotated]
        self._silent, self._devices = silent, devices

    def _known(self, name: str) -> None:
        if name in self._silent:
            raise NVMLError("not supported")

    def start(self) -> None:
        self._known("init")
        self.open += 1

    def stop(self) -> None:
        self.open -= 1

    def by_index(self, index: int) -> str:
        if index >= self._devices:
            raise NVMLError("no such device")
        self.asked.append(index)
        return f"device {index}"

    def by_uuid(self, uuid: str) -> str:
        self.asked.append(uuid)
        return uuid

    def memory(self, handle: str) -> SimpleNamespace:
        self._known("memory")
        assert handle
        return SimpleNamespace(used=self.held)

    def energy(self, handle: str) -> int:
        self._known("energy")
        assert handle
        return self.spent_mj


def driver(monkeypatch: pytest.MonkeyPatch, *silent: str, visible: str | None = None, devices: int = 2) -> Driver:
    found = Driver(*silent, devices=devices)
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=found.start,
        nvmlShutdown=found.stop,
        nvmlDeviceGetHandleByIndex=found.by_index,
        nvmlDeviceGetHandleByUUID=found.by_uuid,
        nvmlDeviceGetMemoryInfo=found.memory,
        nvmlDeviceGetTotalEnergyConsumption=found.energy,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return found


def test_memory_counts_from_what_was_held_before_and_energy_as_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = driver(monkeypatch)
    with device_meter("cuda") as read:
        assert read() == Used(0, 5.0)
        nvml.held, nvml.spent_mj = 4 << 30, 7250
        assert read() == Used(1 << 30, 7.25)
        nvml.held = 2 << 30
        assert read().memory_bytes == 0
    assert nvml.open == 0


@pytest.mark.parametrize(("visible", "asked"), [(None, 0), ("", 0), ("1,0", 1), ("GPU-4f", "GPU-4f")])
def test_the_device_is_the_first_that_cuda_sees(monkeypatch: pytest.MonkeyPatch, visible: str | None, asked: object) -> None:
    nvml = driver(monkeypatch, visible=visible)
    with device_meter("cuda"):
        assert nvml.asked == [asked]


def test_what_the_driver_does_not_tell_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, "energy")
    with device_meter("cuda") as read:
        assert read() == Used(0, None)
    driver(monkeypatch, "memory")
    with device_meter("cuda") as read:
        assert read() == Used(None, 5.0)


def test_without_a_driver_or_such_a_device_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, "init")
    with device_meter("cuda") as read:
        assert read() == Used()
    nvml = driver(monkeypatch, visible="7")
    with device_meter("cuda") as read:
        assert read() == Used()
    assert nvml.open == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with device_meter("cuda") as read:
        assert read() == Used()


def test_of_a_cpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = driver(monkeypatch)
    with device_meter("cpu") as read:
        assert read() == Used()
    assert not nvml.asked
