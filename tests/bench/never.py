"""A contender that never gets ready, and has started a compiler."""

import subprocess
import sys
import time


def train(job, workload, model, gate):
    compiler = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    print(f"compiling for ever in {compiler.pid}", flush=True)
    time.sleep(3600)
