"""Change a model a little, in memory only, so that whatever reads a file of its own gives itself away.

Every element of every parameter and persistent floating buffer is multiplied by ``1 + 1e-3 u`` with ``|u|`` in 0.5..1 and
either sign: large enough that answers from the old weights miss the levels, small enough that the detector stays as sharp as it
was. Being relative, it leaves zeros zero and variances positive. Integer and boolean buffers are counters and indices and stay
as they are, and so do buffers that are not persistent: by torch's own definition they are no part of the state, but made anew
from the code and its configuration (Detectron2's ``pixel_mean``). They are still compared.

The random numbers are numpy's, seeded by the tensor's name and the seed: the same on every machine, device and library version,
and whichever order a module lists its tensors in.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError

RELATIVE = 1e-3
"""The largest change of one element, relative to itself."""


def perturb(module: Any, seed: int) -> tuple[str, ...]:
    """Perturb a ``torch.nn.Module`` in place; returns the names of the tensors that were changed.

    A tensor that a module holds under two names is changed once. Raises `HarnessError` if nothing could be changed: a check that
    relies on it would pass in silence.
    """
    changed = []
    persistent = set(module.state_dict())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name not in persistent or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        before = tensor.detach().cpu().double().numpy()
        after = before * (1.0 + RELATIVE * noise(name, seed, before.shape))
        # Through `data`: autograd must not see it, and views that share the storage must.
        tensor.data.copy_(tensor.new_tensor(after))
        changed.append(name)
    if not changed:
        raise HarnessError("the model has no floating-point tensor to perturb", "Give it weights before it is saved.")
    return tuple(changed)


def noise(name: str, seed: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """``float64`` of that shape, of magnitude 0.5..1 and random sign, a function of its arguments alone."""
    words = np.frombuffer(sha256(f"{seed}:{name}".encode()).digest(), dtype="<u4")
    generator = np.random.Generator(np.random.PCG64([int(word) for word in words]))
    return generator.uniform(0.5, 1.0, shape) * np.where(generator.integers(0, 2, shape), 1.0, -1.0)
