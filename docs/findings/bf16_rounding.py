"""What eight bits of mantissa do to a narrow network: a stack of convolutions in bf16 beside the same in float32.

Nothing is broken here. Each layer in bf16 rounds its answer to one part in 256, and a network of a million parameters has few
channels over which such errors could cancel. So a detector of that size keeps a little less of its average precision than a large
one.

Exit 0 and a line "SHOWN: ..." where a stack of ten layers is off by more than one part in 200, exit 1 where it is not.
"""

import sys

import torch

torch.manual_seed(0)
layers = [layer for _ in range(10) for layer in (torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU())]
network = torch.nn.Sequential(*layers).eval()
picture = torch.randn(1, 32, 40, 48)
with torch.no_grad():
    for layer in network:
        # As after training: every layer's numbers spread by about one.
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    whole = network(picture)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(picture).float()
off = float((whole - half).norm() / whole.norm())
print(f"torch {torch.__version__}: after ten layers in bf16 the answer is off by {100 * off:.2f} % of its size")
if off < 0.005:
    sys.exit(1)
print("SHOWN: rounding to bf16 adds up over the layers")
