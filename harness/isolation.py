"""How a job is shut off: another HOME, TMPDIR and working folder, and no network.

Used inside the job's own process, before any library is imported (fresh processes) or used (forked ones).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x1 | 0x40
_LOOPBACK = ("127.", "::1", "localhost")


def environment(folder: Path, threads: int, shared: Path) -> dict[str, str]:
    """The variables of an isolated process whose HOME, TMPDIR and caches lie in ``folder`` (made here).

    ``threads`` 0 leaves the runtimes' own defaults. ``shared`` is for all jobs of a run: matplotlib's list of fonts, which costs
    seconds and belongs to no backend, and what ``torch.compile`` compiled, which it finds again by a digest of the source.
    """
    places = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data"}
    variables = {name: str(folder / place) for name, place in places.items()}
    for path in variables.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    variables |= {"MPLCONFIGDIR": str(shared / "matplotlib"), "TORCHINDUCTOR_CACHE_DIR": str(shared / "inductor")}
    variables |= {"PYTHONFAULTHANDLER": "1", "BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1"}
    if threads:
        variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return variables


def enter(folder: Path, threads: int, shared: Path) -> dict[str, str]:
    """Move this process into ``folder`` and cut its network; says how, for the record."""
    os.environ.update(environment(folder, threads, shared))
    workplace = folder / "cwd"
    workplace.mkdir(parents=True, exist_ok=True)
    os.chdir(workplace)
    tempfile.tempdir = None
    how = "namespace and socket guard" if _leave_network() else "socket guard"
    sys.addaudithook(_refuse_network)
    return {"network": how, "home": "own", "tmpdir": "own", "cwd": "own"}


def _refuse_network(event: str, args: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event == "socket.getaddrinfo":
        host = args[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host and not host.startswith(_LOOPBACK):
        raise PermissionError(f"the network is cut during this job: refused {event} to {host}")


def _leave_network() -> bool:
    """Enter an empty network namespace with loopback up; False where the system does not permit it."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            return False
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError:
            return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
            fcntl.ioctl(plug, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP_RUNNING))
    except OSError:
        return False
    return True
