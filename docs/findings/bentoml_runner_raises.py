"""What a runner raises behind a legacy service answers nobody: the request waits until its time is up, then gets a 504.

The runner's process prints the error and goes on; the service never hears of it. Here the service gives a request 3 seconds instead
of 60. Exits with 0 where the fault is there, 1 where it is not.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

TIMEOUT_S = 3
SERVICE = """
import bentoml

class Broken(bentoml.legacy.Runnable):
    SUPPORTED_RESOURCES = ("cpu",)
    SUPPORTS_CPU_MULTI_THREADING = True

    @bentoml.legacy.Runnable.method(batchable=False)
    def detect(self, given):
        raise ValueError("not a picture")

runner = bentoml.legacy.Runner(Broken, name="broken")
svc = bentoml.legacy.Service("service", runners=[runner])

@svc.api(input=bentoml.io.JSON(), output=bentoml.io.JSON())
async def detect(given):
    try:
        return await runner.detect.async_run(given)
    except Exception as error:  # noqa: BLE001 - whatever it raises is told
        return {"heard": str(error)}
"""

folder = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
(folder / "service.py").write_text(SERVICE)
with socket.socket() as plug:
    plug.bind(("127.0.0.1", 0))
    port = plug.getsockname()[1]
environment = os.environ | {
    "BENTOML_HOME": str(folder),
    "BENTOML_DO_NOT_TRACK": "True",
    "BENTOML_CONFIG_OPTIONS": f"api_server.traffic.timeout={TIMEOUT_S}",
    "TMPDIR": str(folder),
}
command = [
    sys.executable,
    "-m",
    "bentoml",
    "serve",
    "service:svc",
    "--host",
    "127.0.0.1",
    "--port",
    str(port),
    "--api-workers",
    "1",
]
with (folder / "log").open("wb") as log:
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def _status(route: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{route}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - loopback
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


try:
    until = time.monotonic() + 120
    while _status("readyz") != 200 and time.monotonic() < until and server.poll() is None:
        time.sleep(0.2)
    began = time.monotonic()
    said = _status("detect", b"{}")
    took = time.monotonic() - began
finally:
    # Asked to stop, it would wait for the request that is never answered.
    for process in [*psutil.Process(server.pid).children(recursive=True), server]:
        process.kill()
    server.wait(60)

printed = "ValueError: not a picture" in (folder / "log").read_text(errors="replace")
if said != 504 or not printed:
    print(f"not shown: the request was answered with {said} after {took:.1f} s")
    sys.exit(1)
print(f"SHOWN: the runner raised ValueError at once; the request was answered with {said} after {took:.1f} s")
