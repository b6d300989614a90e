"""One entry without a whole ``model.yaml`` makes BentoML's model store unlistable for everybody.

A copy that was cut off, a disk that was full or a folder made by hand is enough. Exits with 0 where the fault is there, 1 where it
is not.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
from bentoml.exceptions import BentoMLException

with bentoml.models.create("whole"):
    pass
before = [str(model.tag) for model in bentoml.models.list()]
(Path(os.environ["BENTOML_HOME"]) / "models" / "torn" / "v1").mkdir(parents=True)
try:
    after = [str(model.tag) for model in bentoml.models.list()]
except BentoMLException as error:
    print(f"SHOWN: {len(before)} whole entry was listed; beside a torn one: {type(error).__name__}: {error}")
else:
    print(f"not shown: {after} are listed beside a torn entry")
    sys.exit(1)
