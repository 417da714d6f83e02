"""`scopehouse ui`: what it refuses."""

from __future__ import annotations

import socket
import subprocess
import sys


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = (sys.executable, "-m", "scopehouse", "ui", "--port", port)
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"Port {port} can't be used" in ran.stderr and "--port" in ran.stderr
    assert "Traceback" not in ran.stderr
