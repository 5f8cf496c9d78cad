"""The Prefect layer: the flow, its tasks, their cache keys, and the server of a local run."""
