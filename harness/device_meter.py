"""What a GPU holds and has spent, as NVIDIA's management library tells; of a CPU nothing is told.

Timing jobs run alone, so what the whole device holds is theirs, but for what was there before. Nothing is polled while something
is timed: libraries keep the memory that they once had, and the device counts its own energy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.timings import Used


@contextmanager
def device_meter(device: str) -> Iterator[Callable[[], Used]]:
    """A function that reads the device now: memory in use beyond what was when this began, energy since the driver started.

    It gives an empty `Used` for a CPU, and where no driver answers.
    """
    nvml = _started() if device.startswith("cuda") else None
    if nvml is None:
        yield Used
        return
    try:
        handle = _handle(nvml)
        if handle is None:
            yield Used
            return
        before = _memory_bytes(nvml, handle)

        def read() -> Used:
            now = _memory_bytes(nvml, handle)
            held = None if now is None or before is None else max(0, now - before)
            return Used(held, _energy_j(nvml, handle))

        yield read
    finally:
        nvml.nvmlShutdown()


def _started() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _handle(nvml: Any) -> Any:
    """The device that CUDA calls 0 in this process, without starting CUDA; None where it cannot be found.

    CUDA counts as NVML does on machines with one GPU or several of one kind, on others with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    try:
        if visible.isdecimal():
            return nvml.nvmlDeviceGetHandleByIndex(int(visible))
        return nvml.nvmlDeviceGetHandleByUUID(visible)
    except nvml.NVMLError:
        return None


def _memory_bytes(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    except nvml.NVMLError:
        return None


def _energy_j(nvml: Any, handle: Any) -> float | None:
    """Since the driver was loaded; boards before Volta do not count it."""
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except nvml.NVMLError:
        return None
