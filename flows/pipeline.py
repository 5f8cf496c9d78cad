"""The entry point of the deployments: runs any pipeline file, with any of its keys overridden."""

from __future__ import annotations

from funcpipe_prefect import run_pipeline

__all__ = ["run_pipeline"]
