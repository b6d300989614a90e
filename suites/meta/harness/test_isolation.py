"""A job sees another home and no network, and the parent is left as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROBE = """
import json, os, socket, sys, tempfile
from pathlib import Path
from harness import isolation
tempfile.gettempdir()
said = isolation.enter(Path(sys.argv[1]), 1, Path(sys.argv[1]) / "shared")
def tried(call):
    try:
        call()
    except OSError as error:
        return type(error).__name__
    return "went through"
server = socket.create_server(("127.0.0.1", 0))
print(json.dumps({
    "said": said,
    "home": str(Path.home()), "cwd": os.getcwd(), "tmp": tempfile.gettempdir(), "threads": os.environ["OMP_NUM_THREADS"],
    "loopback": tried(lambda: socket.create_connection(server.getsockname(), timeout=5)),
    "address": tried(lambda: socket.socket().connect(("192.0.2.1", 9))),
    "name": tried(lambda: socket.create_connection(("example.invalid", 80), timeout=1)),
}))
"""


def test_enter_moves_everything_and_lets_only_loopback_through(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for key in ("home", "cwd", "tmp"):
        assert Path(found[key]).is_relative_to(tmp_path), key
        assert Path(found[key]).is_dir()
    assert found["threads"] == "1"
    assert found["loopback"] == "went through"
    assert found["address"] == found["name"] == "PermissionError"
    assert found["said"]["network"] in ("namespace and socket guard", "socket guard")
    assert Path.home() != Path(found["home"])
    assert Path.cwd() != Path(found["cwd"])
