"""The perturbation is small, everywhere, the same everywhere, and cannot be mistaken for what was in the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.perturb import RELATIVE, noise, perturb

pytestmark = pytest.mark.covers("M21")


def network() -> Any:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    module.register_buffer("pixel_mean", torch.tensor([100.0, 0.0, -3.0]), persistent=False)
    module.register_buffer("small", torch.ones(3, dtype=torch.float64))
    module.register_buffer("steps", torch.tensor([7, 8]))
    return module


def state(module: Any) -> dict[str, Any]:
    return {name: t.detach().double().numpy().copy() for name, t in [*module.named_parameters(), *module.named_buffers()]}


def test_every_floating_element_changes_by_about_a_thousandth_and_nothing_else_changes() -> None:
    module = network()
    before = state(module)
    changed = perturb(module, seed=1)
    for name, was in before.items():
        now = state(module)[name]
        if name in changed:
            nonzero = was != 0
            relative = np.abs(now[nonzero] / was[nonzero] - 1)
            assert (relative <= RELATIVE * 1.1).all()
            assert (relative >= RELATIVE * 0.4).all()
            assert (now[~nonzero] == 0).all()
        else:
            np.testing.assert_array_equal(now, was)
    assert set(before) - set(changed) == {"steps", "1.num_batches_tracked", "pixel_mean"}
    assert {"small", "1.running_var"} <= set(changed)


def test_variances_stay_positive() -> None:
    module = network()
    perturb(module, seed=2)
    assert (state(module)["1.running_var"] > 0).all()


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    one, same, other = network(), network(), network()
    for module, seed in ((one, 3), (same, 3), (other, 4)):
        perturb(module, seed)
    for name, value in state(one).items():
        np.testing.assert_array_equal(value, state(same)[name])
    assert (state(one)["0.weight"] != state(other)["0.weight"]).all()


def test_the_numbers_are_pinned_so_that_every_machine_draws_the_same() -> None:
    pinned = [0.9501766857480449, 0.739970096608955, -0.8486146390625067]
    np.testing.assert_allclose(noise("0.weight", 3, (3,)), pinned, rtol=1e-15)


def test_a_tensor_held_twice_is_changed_once() -> None:
    import torch

    module = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False)] * 2)
    before = state(module)["0.weight"]
    perturb(module, seed=1)
    assert np.abs(state(module)["0.weight"] / before - 1).max() <= RELATIVE * 1.1


def test_the_grad_history_and_mode_are_left_alone() -> None:
    module = network()
    perturb(module, seed=1)
    assert not module.training
    assert all(p.grad_fn is None and p.requires_grad for p in module.parameters())


def test_nothing_to_perturb_is_an_error() -> None:
    import torch

    with pytest.raises(HarnessError, match="no floating-point tensor"):
        perturb(torch.nn.ReLU(), seed=1)


@given(st.text(max_size=8), st.integers(0, 2**32), st.integers(0, 30))
def test_noise_is_bounded_away_from_nothing(name: str, seed: int, count: int) -> None:
    drawn = noise(name, seed, (count,))
    assert ((np.abs(drawn) >= 0.5) & (np.abs(drawn) <= 1.0)).all()
