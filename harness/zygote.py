"""A parent that has imported the heavy libraries but run nothing, and forks one child a job.

Importing torch, torchvision and Detectron2 costs seconds a process; a fork costs milliseconds. Protocol, one JSON object a line:
in ``{"id", "order", "log"}``, out ``{"id", "pid"}`` when the child runs and ``{"id", "status"}`` (as `os.waitpid` says) when it
is gone. Ends when its standard input closes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from harness.orders import Order
from harness.worker import EXIT_NO_OBSERVATION, run_order

PRELOADED = ("numpy", "scipy.optimize", "PIL.Image", "safetensors.torch", "torch", "torchvision", "detectron2.engine")


def main() -> None:
    """Serve until standard input closes."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    gc.disable()
    _preload()
    # What is imported stays: neither this process nor its children look through it for garbage.
    gc.freeze()
    gc.enable()
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_out, False)
    signal.set_wakeup_fd(wake_out)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, Any] = {}
    watch = selectors.DefaultSelector()
    watch.register(0, selectors.EVENT_READ)
    watch.register(wake_in, selectors.EVENT_READ)
    _say(channel, {"ready": True})
    pending = b""
    while True:
        for key, _ in watch.select():
            chunk = os.read(key.fd, 65536)
            if key.fd == wake_in:
                continue
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = _fork(request, channel)
                running[pid] = request["id"]
                _say(channel, {"id": request["id"], "pid": pid})
        _reap(running, channel)


def _preload() -> None:
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever is missing or broken is met, and told, by the jobs that need it
            sys.stderr.write(f"not preloaded: {name}: {type(error).__name__}: {error}\n")


def _fork(request: dict[str, Any], channel: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = EXIT_NO_OBSERVATION
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.close(channel.fileno())
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        run_order(Order.read(Path(request["order"])))
        status = 0
    except BaseException:  # noqa: BLE001 - the child must never return into the parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _reap(running: dict[int, Any], channel: Any) -> None:
    while running:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in running:
            _say(channel, {"id": running.pop(pid), "status": status})


def _say(channel: Any, message: dict[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
