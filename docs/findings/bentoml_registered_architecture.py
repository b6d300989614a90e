"""A model of an architecture of one's own cannot be loaded by ``bentoml.detectron`` elsewhere, ``external_modules`` or not.

Detectron2 builds a model by the name that a class was registered under. ``external_modules`` pickles the module's classes by
value, so that they need not be imported where the model is loaded; then nothing registers them either, and `load_model` finds no
such name. Storing the class among the custom objects does not help. Exits with 0 where the fault is there, 1 where it is not.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

ARCHITECTURE = """
import torch
from detectron2.modeling import META_ARCH_REGISTRY

@META_ARCH_REGISTRY.register()
class MyArch(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, images):
        return self.layer(images)
"""
LOAD = "import sys, bentoml; print(type(bentoml.detectron.load_model(sys.argv[1])).__name__)"

folder = Path(tempfile.mkdtemp())
(folder / "my_arch.py").write_text(ARCHITECTURE)
sys.path.insert(0, str(folder))
my_arch = importlib.import_module("my_arch")

cfg = get_cfg()
cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "MyArch"
given = {
    "without": {},
    "with external_modules": {"external_modules": [my_arch]},
    "with the class besides": {"external_modules": [my_arch], "custom_objects": {"class": my_arch.MyArch}},
}
told = {}
for how, options in given.items():
    tag = str(bentoml.detectron.save_model("mine", build_model(cfg), config=cfg, **options).tag)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, tag], capture_output=True, text=True, check=False, cwd=tempfile.mkdtemp()
    )
    told[how] = (done.stdout + done.stderr).strip().splitlines()[-1].replace("!", "")
if not all("No object named 'MyArch'" in words for words in told.values()):
    print(f"not shown: {told}")
    sys.exit(1)
print(f"SHOWN: loaded in another process, {'; '.join(f'{how}: {words}' for how, words in told.items())}")
