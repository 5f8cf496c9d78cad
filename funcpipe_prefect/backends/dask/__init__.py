"""The Dask backend: clusters and futures for a run, and pipelines as lazy collections."""
