"""A module without a registry."""
