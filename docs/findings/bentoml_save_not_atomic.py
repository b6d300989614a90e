"""A save that is killed leaves a half-written model in BentoML's store, where it is found: entries are copied in place.

Exits with 0 where the fault is there, 1 where it is not.
"""

import os
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}
import bentoml

warnings.simplefilter("ignore")

WHOLE = bytes(1_000_000)

child = os.fork()
if child == 0:
    # The child is ended in the middle of a copy, at the same byte each time: by the signal for a file that grows too large.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with bentoml.models.create("cut:v1") as model:
        Path(model.path_of("weights.bin")).write_bytes(WHOLE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(WHOLE) // 2, resource.RLIM_INFINITY))
    os._exit(0)
_, status = os.waitpid(child, 0)
if not os.WIFSIGNALED(status):
    print("not shown: the save was not cut off")
    sys.exit(1)

left = Path(os.environ["BENTOML_HOME"]) / "models" / "cut" / "v1"
if not left.exists():
    print("not shown: nothing is left of the save that was killed")
    sys.exit(1)
try:
    found = Path(bentoml.models.get("cut:v1").path_of("weights.bin"))
    size = found.stat().st_size if found.exists() else 0
    then = f"bentoml.models.get gives it out, with {size} of {len(WHOLE)} bytes of its weights"
except bentoml.exceptions.BentoMLException as error:
    then = f"bentoml.models.get raises: {error}"
try:
    bentoml.models.list()
    listed = "it is listed"
except bentoml.exceptions.BentoMLException as error:
    listed = f"bentoml.models.list raises: {error}"
try:
    with bentoml.models.create("cut:v1"):
        pass
    again = "saved again"
except bentoml.exceptions.BentoMLException as error:
    again = f"saving it again raises: {error}"
print(f"SHOWN: {[path.name for path in left.iterdir()]} is left of the save; {then}; {listed}; {again}")
