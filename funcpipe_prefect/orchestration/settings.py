"""Settings, by Prefect's own pattern: environment, `.env`, `prefect.toml`, `pyproject.toml`.

PREFECT_INTEGRATIONS_FUNCPIPE_ALLOW_PICKLE=true          in the environment
[integrations.funcpipe]                                  in prefect.toml
[tool.prefect.integrations.funcpipe]                     in pyproject.toml
"""

from __future__ import annotations

import os
from typing import ClassVar

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, PositiveFloat
from pydantic_settings import SettingsConfigDict

from funcpipe_prefect.running import CHILD_VARIABLES

__all__ = ["FuncPipeSettings", "apply_settings"]

_PATH = ("integrations", "funcpipe")


class FuncPipeSettings(PrefectBaseSettings):
    """What may be set of this package for a machine or a project."""

    model_config: ClassVar[SettingsConfigDict] = build_settings_config(_PATH)

    allow_pickle: bool = Field(
        False,
        description="Read pickles from a store that others may write to: whoever may, may run code here.",
    )
    most_expansion: PositiveFloat = Field(
        300.0, description="How many times its size a compressed file may unfold to, beyond 256 MiB."
    )


def apply_settings() -> None:
    """Let this process, and those that it starts, know what is set; the environment comes first."""
    found = FuncPipeSettings()
    for name in found.model_fields_set:
        variable = f"PREFECT_{'_'.join(_PATH).upper()}_{name.upper()}"
        text = str(getattr(found, name))
        os.environ.setdefault(variable, text)
        CHILD_VARIABLES.setdefault(variable, text)
