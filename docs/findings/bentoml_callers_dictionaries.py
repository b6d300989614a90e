"""``bentoml.detectron.save_model`` writes into the dictionaries it is handed, and gives back more metadata than it was given.

``metadata`` gets the key ``_is_predictor`` and ``custom_objects`` gets ``config``, in the caller's own objects: use one metadata
dictionary for two models, and the second inherits the first one's. Exits with 0 where the fault is there, 1 where it is not.
"""

import os
import sys
import tempfile

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 4, 16

metadata, custom_objects = {"epoch": 3}, {"names": ["cat"]}
stored = bentoml.detectron.save_model("small", build_model(cfg), config=cfg, metadata=metadata, custom_objects=custom_objects)
back = dict(bentoml.models.get(stored.tag).info.metadata)

if metadata == {"epoch": 3} and list(custom_objects) == ["names"] and back == {"epoch": 3}:
    print("not shown: the caller's dictionaries are as they were, and the metadata came back equal")
    sys.exit(1)
print(f"SHOWN: the caller's metadata is now {metadata}, its custom_objects hold {sorted(custom_objects)}; loaded metadata {back}")
