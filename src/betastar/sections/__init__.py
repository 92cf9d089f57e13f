"""The sections of the configuration: every setting with its type, its limits, its default and its meaning."""

from betastar.sections.base import Section
from betastar.sections.data import (
    CustomTask,
    Data,
    DatasetPreferences,
    DatasetSource,
    DatasetTask,
    Lengths,
    MicroPreferences,
    MicroTask,
    PairColumns,
    Preferences,
    Task,
)
from betastar.sections.models import (
    Adapter,
    BaseModelChoice,
    BaseTraining,
    Chat,
    Compute,
    Geometry,
    PretrainedBase,
    RandomBase,
    TrainedBase,
)
from betastar.sections.tracking import Tracking
from betastar.sections.training import Evaluation, Grid, Kl, Law, Offline, Online, Optimisation, Rewards, Training

__all__ = [
    "Adapter",
    "BaseModelChoice",
    "BaseTraining",
    "Chat",
    "Compute",
    "CustomTask",
    "Data",
    "DatasetPreferences",
    "DatasetSource",
    "DatasetTask",
    "Evaluation",
    "Geometry",
    "Grid",
    "Kl",
    "Law",
    "Lengths",
    "MicroPreferences",
    "MicroTask",
    "Offline",
    "Online",
    "Optimisation",
    "PairColumns",
    "Preferences",
    "PretrainedBase",
    "RandomBase",
    "Rewards",
    "Section",
    "Task",
    "Tracking",
    "TrainedBase",
    "Training",
]
