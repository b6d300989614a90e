"""``bentoml.pytorch.load_model`` cannot load what ``bentoml.pytorch.save_model`` has just saved, with torch 2.6 or later.

It saves the whole module with cloudpickle and loads it with ``torch.load``, whose default became ``weights_only=True``: no module
passes. The runner of such a model fails in the same way. ``load_model(tag, weights_only=False)`` loads it. Exits with 0 where the
fault is there, 1 where it is not.
"""

import os
import pickle
import sys
import tempfile

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
import torch

stored = bentoml.pytorch.save_model("linear", torch.nn.Linear(2, 2))
try:
    bentoml.pytorch.load_model(stored.tag)
except pickle.UnpicklingError as error:
    bentoml.pytorch.load_model(stored.tag, weights_only=False)
    print(f"SHOWN: torch {torch.__version__} refuses it with {type(error).__name__}; with weights_only=False it loads")
else:
    print("not shown: the model was loaded")
    sys.exit(1)
