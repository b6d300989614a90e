"""While one process saves a new version, `name:latest` cannot be read by others: the pointer to it is emptied, then written.

Exits with 0 where the fault is there, 1 where it was not met within a minute.
"""

import os
import signal
import sys
import tempfile
import time
import warnings

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}
import bentoml

warnings.simplefilter("ignore")


def save() -> None:
    """A version more."""
    with bentoml.models.create("shared"):
        pass


save()
writer = os.fork()
if writer == 0:
    while True:
        save()

reads, raised = 0, None
began = time.monotonic()
while raised is None and time.monotonic() - began < 60:
    try:
        bentoml.models.get("shared:latest")
        reads += 1
    except bentoml.exceptions.BentoMLException as error:
        raised = error
os.kill(writer, signal.SIGKILL)
os.waitpid(writer, 0)
if raised is None:
    print(f"not shown: {reads} times a whole entry")
    sys.exit(1)
print(f"SHOWN: after {reads} whole entries bentoml.models.get('shared:latest') raises: {raised}")
