"""``bentoml.detectron`` stores a `DefaultPredictor`'s weights and never reads them: loading takes ``cfg.MODEL.WEIGHTS`` again.

Save a predictor whose weights were changed in memory (fine-tuned, pruned, converted). Loading it brings back the numbers of the
checkpoint that the configuration names, outside the store; and where that file is gone, it does not load at all. Exits with 0
where the fault is there, 1 where it is not.
"""

import os
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
os.environ |= {"BENTOML_HOME": str(folder / "store"), "BENTOML_DO_NOT_TRACK": "True"}
(folder / "store").mkdir()

import bentoml  # noqa: E402 - BENTOML_HOME must be set before
import torch  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

checkpoint = folder / "model_final.pth"
cfg = get_cfg()
cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(checkpoint)
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 4, 16
torch.save({"model": build_model(cfg).state_dict()}, checkpoint)

predictor = DefaultPredictor(cfg)
bias = "proposal_generator.rpn_head.objectness_logits.bias"
with torch.no_grad():
    predictor.model.state_dict()[bias].fill_(7.0)
stored = bentoml.detectron.save_model("changed_in_memory", predictor)

in_the_store = torch.load(bentoml.models.get(stored.tag).path_of("saved_model.pth"), weights_only=True)["model"][bias][0].item()
loaded = bentoml.detectron.load_model(stored.tag).model.state_dict()[bias][0].item()
checkpoint.unlink()
try:
    bentoml.detectron.load_model(stored.tag)
    without = "loads"
except (AssertionError, OSError) as error:
    without = f"{type(error).__name__}: {error}"

if loaded == in_the_store and without == "loads":
    print("not shown: the loaded predictor has the weights that were saved")
    sys.exit(1)
print(f"SHOWN: saved 7.0, the store's file holds {in_the_store}, the loaded predictor has {loaded}; checkpoint gone: {without}")
