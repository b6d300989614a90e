"""What BentoML's routes make of a module that is saved in training mode, as between two epochs.

``bentoml.detectron.save_model`` calls ``eval()`` on the caller's own module: training goes on with batch statistics and dropout
off. ``bentoml.pytorch`` and ``bentoml.torchscript`` keep the mode, and ``load_model`` gives back a module that is in training mode:
a detector then asks for targets, or drops out at random. Exits with 0 where all of that is so, 1 where it is not.
"""

import os
import sys
import tempfile

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 4, 16
theirs = build_model(cfg).train()
bentoml.detectron.save_model("detectron", theirs, config=cfg)

plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
stored = bentoml.pytorch.save_model("pytorch", plain)
back = bentoml.pytorch.load_model(stored.tag, weights_only=False)

graph = torch.jit.trace(plain.eval(), torch.ones(1, 2)).train()
kept = bentoml.torchscript.load_model(bentoml.torchscript.save_model("torchscript", graph).tag)

found = {
    "the caller's module after bentoml.detectron.save_model": "training" if theirs.training else "eval",
    "loaded by bentoml.pytorch": "training" if back.training else "eval",
    "loaded by bentoml.torchscript": "training" if kept.training else "eval",
}
told = ", ".join(f"{what}: {mode}" for what, mode in found.items())
if list(found.values()) != ["eval", "training", "training"]:
    print(f"not shown: saved in training mode; {told}")
    sys.exit(1)
print(f"SHOWN: saved in training mode; {told}")
