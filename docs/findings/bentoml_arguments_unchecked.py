"""``bentoml.detectron.save_model`` takes arguments that it cannot mean: misspelt signatures, a configuration of any type.

A key that no signature has is dropped in silence, so that a misspelt ``batch_dim`` is the default; a dictionary is stored as the
configuration of a module and fails when it is loaded. Exits with 0 where the fault is there, 1 where it is not.
"""

import os
import sys
import tempfile
import warnings

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

warnings.simplefilter("ignore")

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 4, 16
model = build_model(cfg)


def _saved(**arguments: object) -> str:
    try:
        return str(bentoml.detectron.save_model("small", model, **arguments).tag)
    except Exception as error:  # noqa: BLE001 - whatever it raises is told
        return f"refused: {type(error).__name__}: {error}"


misspelt = _saved(config=cfg, signatures={"__call__": {"batchable": True, "batch_dimm": 1}})
other = _saved(config={"MODEL": "none"})
if misspelt.startswith("refused") and other.startswith("refused"):
    print(f"not shown: {misspelt}; {other}")
    sys.exit(1)
signature = bentoml.models.get(misspelt).info.signatures["__call__"]
try:
    bentoml.detectron.load_model(other)
    then = "it loads"
except Exception as error:  # noqa: BLE001 - whatever it raises is told
    then = f"{type(error).__name__}: {error}"
print(
    f"SHOWN: with a misspelt batch_dimm=1 the signature's is {signature.batch_dim}; a dictionary as config is stored, then {then}"
)
