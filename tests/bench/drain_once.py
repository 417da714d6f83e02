"""Drains one topic as `scopehouse ingest drain` does, and prints what it cost this process as one JSON object."""

from __future__ import annotations

import json
import os
import sys
import time

from ingest.sink.broker import spare_the_collector
from ingest.sink.drain import drain
from services.settings import read_settings
from tests.bench.processes import peak_rss_mb


def main() -> None:
    """Drain the topic that the command line names. The imports' time is not counted, their memory is."""
    topic = sys.argv[1]
    spare_the_collector()
    began, began_cpu = time.monotonic(), time.process_time()
    (drained,) = drain(read_settings(), [topic]).values()
    cost = {
        "rows": drained.rows,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "peak_rss_mb": peak_rss_mb(os.getpid()),
    }
    sys.stdout.write(json.dumps(cost) + "\n")


if __name__ == "__main__":
    main()
