"""The partition store: materialized partitions as checksummed, content-addressed files."""

from funcpipe_prefect.store.partitions import PartitionStore

__all__ = ["PartitionStore"]
