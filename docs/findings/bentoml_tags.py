"""Two tags that BentoML takes and should not: ``name:latest`` as a version, and one that ends in a newline.

The store keeps the newest version of a name in a file ``latest``. Saved under ``name:latest``, a model becomes a folder in its
place: from then on nothing of that name can be saved or found. A newline at the end of a tag becomes part of a folder's name.
Exits with 0 where the fault is there, 1 where it is not.
"""

import os
import sys
import tempfile

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
from bentoml.exceptions import BentoMLException


def _attempt(tag: str) -> str:
    try:
        with bentoml.models.create(tag) as made:
            pass
        return f"saved as {str(made.tag)!r}"
    except BentoMLException as error:
        return f"refused: {error}"
    except OSError as error:
        return type(error).__name__


latest, after, newline = _attempt("model:latest"), _attempt("model"), _attempt("other:v1\n")
if "Error" not in latest + after and "\\n" not in newline:
    print(f"not shown: model:latest is {latest}, then model is {after}; a newline is {newline}")
    sys.exit(1)
print(f"SHOWN: model:latest gives {latest}, and model gives {after} ever after; 'other:v1\\n' is {newline}")
