"""A pool of SDK workers as a service: `python -m tests.faults.worker_pool PORT`."""

import sys
import time

from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

if __name__ == "__main__":
    address, server = BeamFnExternalWorkerPoolServicer.start(port=int(sys.argv[1]))
    while True:
        time.sleep(3600)
