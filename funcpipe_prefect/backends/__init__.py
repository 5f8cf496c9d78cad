"""Backends: where a stage runs on a split. None of them re-implements an operator."""
