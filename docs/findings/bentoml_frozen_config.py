"""A module saved with a frozen configuration by ``bentoml.detectron`` cannot be loaded.

Detectron2's own training scripts freeze the configuration (``cfg.freeze()``); `save_model` takes it, and `load_model` then
assigns ``cfg.MODEL.DEVICE``, which a frozen one refuses. The loss is found when the model is wanted back. Exits with 0 where the
fault is there, 1 where it is not.
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
cfg.freeze()
stored = bentoml.detectron.save_model("frozen", build_model(cfg), config=cfg)
try:
    bentoml.detectron.load_model(stored.tag)
except AttributeError as error:
    print(f"SHOWN: {' '.join(str(error).split())}")
else:
    print("not shown: the model was loaded")
    sys.exit(1)
