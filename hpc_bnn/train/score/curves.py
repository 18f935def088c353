"""The picture of a run's course: ``plots/loss.png``, where each term has its name."""

from hpc_bnn.config import Settings
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import read_metrics
from hpc_bnn.verify.plots import plot_loss


def draw_curves(folder: RunFolder, settings: Settings) -> None:
    """Draw the steps and validations of a run, if its folder has any."""
    rows = read_metrics(folder.metrics)
    if rows:
        plot_loss(rows, folder.plots / "loss.png", loss_name=loss_in_words(settings.loss.name))


def loss_in_words(name: str) -> str:
    """Return the name of a loss as a label: "almost fair CRPS", "Gaussian NLL"."""
    words = {"crps": "CRPS", "nll": "NLL", "gaussian": "Gaussian"}
    return " ".join(words.get(word, word) for word in name.rpartition(":")[2].split("_"))
