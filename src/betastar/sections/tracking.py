"""Settings of experiment trackers. None of them changes what is computed, and no stage's key holds one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from betastar.sections.base import Section


class Tracking(Section):
    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        default=(), description="trackers that get losses and evaluation points: tensorboard, wandb, mlflow, trackio"
    )
    project: str = Field(
        default="betastar",
        min_length=1,
        description="project (MLflow: experiment) of the run at wandb, mlflow, trackio",
    )

    @field_validator("to")
    @classmethod
    def _each_once(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(to)) != len(to):
            raise ValueError("names the same tracker twice; list each once")
        return to
