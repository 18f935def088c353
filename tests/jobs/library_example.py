"""The library in a user's own script, as README shows it; prints every loss.

The methods are the arguments, else the Gaussian.
"""

import sys

import torch

import hpc_bnn as hb
from hpc_bnn.data import data_set
from hpc_bnn.models import MODELS

METHODS = {
    "dropout": lambda network: hb.Dropout(network, prior_sigma=1.0),
    "gaussian": lambda network: hb.Gaussian(network, prior_sigma=1.0),
    "ensemble": lambda network: hb.Ensemble(network, samples=4),
    "sgld": lambda network: hb.SGLD(network, samples=4, **CHAINS),
    "sghmc": lambda network: hb.SGHMC(network, samples=4, **CHAINS),
}
CHAINS = {"burn_in": 2, "collect_every": 3, "snapshots": 2}

digits = data_set("digits")()
train_set = digits.train
world = hb.start(sample_ranks="auto")
for method in sys.argv[1:] or ["gaussian"]:
    torch.manual_seed(0)
    shapes, rate = (digits.input_shape, digits.output_shape), 0.1 if method == "dropout" else 0.0
    network = MODELS["mlp"](*shapes, hidden=(16,), dropout=rate).double()
    posterior = METHODS[method](network)
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
            print(f"{method} loss {float(loss)!r}")
    posterior.gather(world.sample_axis)
    samples = posterior.prediction_samples(6)
    images, _ = digits.test.batch(torch.arange(5))
    probabilities = posterior.predict(images.double(), samples=samples).softmax(-1)
    assert probabilities.shape == (samples, 5, 10)
    if world.is_first:
        print(f"{method} probability {float(probabilities[:, 0, 0].mean())!r}")
