"""The builder: config and registry become a checked `Pipeline`, or every problem at once."""

from funcpipe_prefect.builder.build import build_pipeline, load_pipeline

__all__ = ["build_pipeline", "load_pipeline"]
