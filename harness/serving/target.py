"""What ``bentoml serve harness.serving.target:DetectorService`` loads; `harness.serving.server` starts it."""

from harness.serving.service import from_environment

DetectorService = from_environment()
