"""Settings of a run: what they are (settings), reading them (load), checking choices (options)."""

from hpc_bnn.config.load import CONFIGS, difference, dump_settings, load_settings
from hpc_bnn.config.options import check_options, choose
from hpc_bnn.config.section import Choice
from hpc_bnn.config.settings import (
    SEED_LIMIT,
    DataSettings,
    OptimizerSettings,
    Settings,
    SettingsError,
)

__all__ = [
    "CONFIGS",
    "SEED_LIMIT",
    "Choice",
    "DataSettings",
    "OptimizerSettings",
    "Settings",
    "SettingsError",
    "check_options",
    "choose",
    "difference",
    "dump_settings",
    "load_settings",
]
