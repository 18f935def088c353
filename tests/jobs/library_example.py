"""The library in a user's own script, as README shows it; prints every loss.

The method is the first argument, else the Gaussian.
"""

import sys

import torch

import hpc_bnn as hb
from hpc_bnn.data import data_set
from hpc_bnn.models import MODELS

digits = data_set("digits")()
train_set = digits.train
torch.manual_seed(0)
method = sys.argv[1] if len(sys.argv) > 1 else "gaussian"
shapes, rate = (digits.input_shape, digits.output_shape), 0.1 if method == "dropout" else 0.0
network = MODELS["mlp"](*shapes, hidden=(16,), dropout=rate).double()

world = hb.start(sample_ranks="auto")
METHODS = {
    "dropout": lambda: hb.Dropout(network, prior_sigma=1.0),
    "gaussian": lambda: hb.Gaussian(network, prior_sigma=1.0),
    "ensemble": lambda: hb.Ensemble(network, samples=4),
    "sgld": lambda: hb.SGLD(network, samples=4, burn_in=2, collect_every=3, snapshots=2),
    "sghmc": lambda: hb.SGHMC(network, samples=4, burn_in=2, collect_every=3, snapshots=2),
}
posterior = METHODS[method]()
optimizer = posterior.optimizer(lr=0.05) or torch.optim.Adam(posterior.parameters(), lr=1e-3)
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
posterior.gather(world.sample_axis)
samples = posterior.prediction_samples(6)
images, _ = digits.test.batch(torch.arange(5))
probabilities = posterior.predict(images.double(), samples=samples).softmax(-1)
assert probabilities.shape == (samples, 5, 10)
if world.is_first:
    print(f"probability {float(probabilities[:, 0, 0].mean())!r}")
