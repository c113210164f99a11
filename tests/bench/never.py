"""A contender that never gets ready."""

import time


def train(job, workload, model, gate):
    print("compiling for ever", flush=True)
    time.sleep(3600)
