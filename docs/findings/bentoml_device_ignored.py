"""``bentoml.detectron.load_model`` puts a module on CUDA where there is CUDA, whatever ``device_id`` says.

The device is chosen once, when ``bentoml.detectron`` is imported (``cuda`` if available), and ``device_id`` reaches the
configuration only. On a machine without a GPU this script pretends that there is one, and sees the attempt fail. Exits with 0
where the fault is there, 1 where it is not.
"""

import os
import sys
import tempfile

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import torch

has_gpu = torch.cuda.is_available()
torch.cuda.is_available = lambda: True
import bentoml  # noqa: E402 - BENTOML_HOME must be set before
import bentoml.detectron  # noqa: E402

torch.cuda.is_available = lambda: has_gpu
from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 4, 16
stored = bentoml.detectron.save_model("small", build_model(cfg), config=cfg)
try:
    device = next(bentoml.detectron.load_model(stored.tag, device_id="cpu").parameters()).device.type
except (RuntimeError, AssertionError) as error:
    device = f"cuda, tried in vain: {str(error).splitlines()[0]}"
if device == "cpu":
    print("not shown: the module is on the CPU")
    sys.exit(1)
print(f"SHOWN: asked for cpu, the module went to {device}")
