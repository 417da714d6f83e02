"""``python -m ml``: cluster the countries once and print the run as one JSON object."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ml.run import run
from services.errors import MendableError
from services.settings import settings


def main() -> int:
    """Run once; 0 done, 1 an error the user can mend (one sentence on standard error)."""
    try:
        written = run(settings())
    except MendableError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(written), default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
