"""Registries and sources of the demonstration; written as a user would write them."""
