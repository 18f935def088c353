"""The library in a user's own script, as README shows it; prints every loss.

The argument names the posterior.
"""

import sys

import torch

import hpc_bnn as hb
from hpc_bnn.data import data_set
from hpc_bnn.models import MODELS

digits = data_set("digits")()
train_set = digits.train
torch.manual_seed(0)
shapes = digits.input_shape, digits.output_shape
network = MODELS["mlp"](*shapes, hidden=(16,), dropout=0.1).double()

world = hb.start(sample_ranks="auto")
posterior = getattr(hb, sys.argv[1])(network, prior_sigma=1.0)
optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-3)
step = hb.Step(
    posterior,
    hb.losses.categorical_nll(),
    optimizer,
    world,
    samples=4,
    num_examples=len(train_set),
    precision="float64",
)
loader = hb.Batches(train_set, batch_size=128, world=world)
for x, y in loader:
    loss = step(x, y)
    if world.is_first:
        print(f"loss {float(loss)!r}")
images, _ = digits.test.batch(torch.arange(5))
probabilities = posterior.predict(images.double(), samples=6).softmax(-1)
assert probabilities.shape == (6, 5, 10)
if world.is_first:
    print(f"probability {float(probabilities[:, 0, 0].mean())!r}")
