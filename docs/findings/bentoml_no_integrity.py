"""A byte of the stored weights that changes on the disk is loaded without a word: BentoML's store keeps no digest of its files.

Exits with 0 where the fault is there, 1 where it is not.
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

warnings.simplefilter("ignore")

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 4, 16
model = build_model(cfg)
tag = bentoml.detectron.save_model("small", model, config=cfg).tag

weights = Path(bentoml.models.get(tag).path_of("saved_model.pth"))
content = bytearray(weights.read_bytes())
content[len(content) // 2] ^= 0x40
weights.write_bytes(content)
try:
    loaded = bentoml.detectron.load_model(tag).state_dict()
except Exception as error:  # noqa: BLE001 - whatever it raises is told
    print(f"not shown: the changed file was refused: {type(error).__name__}: {error}")
    sys.exit(1)
changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, loaded[name])]
if not changed:
    print("not shown: every tensor is as it was saved")
    sys.exit(1)
print(f"SHOWN: one bit of saved_model.pth was changed, and it was loaded without a word; {changed[0]} is another")
