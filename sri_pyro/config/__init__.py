"""Declarations: TOML in, a checked configuration out; what it names is built, trained and recorded here alone."""

from sri_pyro.config.build import build, build_model, load_corpus, seed_everything
from sri_pyro.config.calibrate import calibrate_run, readable_calibration
from sri_pyro.config.cost import Cost
from sri_pyro.config.criticise import criticise_run, readable_criticism
from sri_pyro.config.doctor import doctor_run, readable_doctor
from sri_pyro.config.folder import RunFolder
from sri_pyro.config.judge import Begun, evaluate_run, readable, redrawn, report_run
from sri_pyro.config.reference import Effort, readable_reference, reference_run
from sri_pyro.config.run import Run, load_run
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config, parse_config, presets, read_config
from sri_pyro.config.tracking import tensorboard_watch
from sri_pyro.config.trainer import Told, train
from sri_pyro.processes import Group, ProcessLostError, joined
from sri_pyro.training import Stopped
from sri_pyro.writing import atomic_path

__all__ = [
    "Begun",
    "Config",
    "ConfigError",
    "Cost",
    "Effort",
    "Group",
    "ProcessLostError",
    "Run",
    "RunFolder",
    "Stopped",
    "Told",
    "atomic_path",
    "build",
    "build_model",
    "calibrate_run",
    "criticise_run",
    "doctor_run",
    "evaluate_run",
    "joined",
    "load_corpus",
    "load_run",
    "parse_config",
    "presets",
    "read_config",
    "readable",
    "readable_calibration",
    "readable_criticism",
    "readable_doctor",
    "readable_reference",
    "redrawn",
    "reference_run",
    "report_run",
    "seed_everything",
    "tensorboard_watch",
    "train",
]
