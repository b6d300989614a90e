"""How long a job may take, and what is said of one that took longer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.executor import Executor, Limits
from harness.processes import Ending
from harness.registry import adapters
from harness.types import Variant


@pytest.mark.parametrize(("patience", "seconds"), [(1.0, "300"), (3.0, "900")])
def test_a_variant_that_compiles_may_take_longer_and_its_own_limit_is_told(patience: float, seconds: str) -> None:
    executor: Any = SimpleNamespace(_setting=SimpleNamespace(limits=Limits(300.0, 2**30)))
    order: Any = SimpleNamespace(variant=Variant("slow", patience=patience))
    limit_s = Executor._limit_s(executor, order)
    assert Ending("timeout", -9, limit_s, 0).told(limit_s, 2**30).startswith(f"still running after {seconds} s")


def test_only_what_compiles_or_keeps_its_clients_waiting_is_waited_for() -> None:
    slow = {variant.id for ref in adapters().values() for variant in ref.load().variants if variant.patience != 1.0}
    assert slow == {"compiled", "dynamo", "legacy"}
