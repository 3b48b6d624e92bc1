"""All benchmarks in a row, or those named: python -m benchmarks [NAME ...]."""

from __future__ import annotations

import importlib
import sys

NAMES = ("polls", "sources", "deploys", "checkouts", "webhooks", "scrape")

if __name__ == "__main__":
    wanted, sys.argv[1:] = sys.argv[1:] or list(NAMES), []
    for name in wanted:
        importlib.import_module(f"benchmarks.{name}").main()
