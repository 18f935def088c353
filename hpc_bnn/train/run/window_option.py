"""How the windows of a series are normalised, written out in the settings of a run.

The default became "window"; run folders whose config.yaml does not say it are of a version that
knew the training part's mean and standard deviation only.
"""

import inspect

from hpc_bnn.config import Settings
from hpc_bnn.data import DATA_SETS, data_set

KEY, OLD = "normalize", "training"


def with_normalization(settings: Settings, *, of_old_run: bool = False) -> Settings:
    """Return settings whose data section says how windows are normalised, where its data set asks:
    as given, else the default, or that of an old run.
    """
    chosen = settings.data
    if chosen.name not in DATA_SETS or KEY in chosen.options:
        return settings
    parameter = inspect.signature(data_set(chosen.name)).parameters.get(KEY)
    if parameter is None:
        return settings
    data = chosen.model_copy(update={KEY: OLD if of_old_run else parameter.default})
    return settings.model_copy(update={"data": data})
