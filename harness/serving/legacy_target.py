"""What ``bentoml serve harness.serving.legacy_target:service`` loads; `harness.serving.server` starts it."""

import os

import bentoml

from harness.serving.legacy import StoredDetector
from harness.serving.settings import Settings

_DETECTOR = StoredDetector(Settings.of(os.environ))
service = bentoml.legacy.Service("detector", runners=[_DETECTOR.runner])
_DETECTOR.add_apis(service)
