"""The partition store: materialized partitions as checksummed, content-addressed files."""

from funcpipe_prefect.store.codecs import columns_of
from funcpipe_prefect.store.exchange import decode_value, encode_value
from funcpipe_prefect.store.handover import Handover, JobRecord
from funcpipe_prefect.store.locks import can_lock
from funcpipe_prefect.store.partitions import PartitionStore

__all__ = [
    "Handover",
    "JobRecord",
    "PartitionStore",
    "can_lock",
    "columns_of",
    "decode_value",
    "encode_value",
]
