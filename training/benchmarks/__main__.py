"""`python -m training.benchmarks NAME …`: the project's own measurements; `python -m training bench` is the users'."""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = ("anomalib", "detectable", "forms", "parity", "peers", "scores", "serving", "simulator", "step")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES, help="the benchmark; NAME --help shows its flags")
    name = parser.parse_args(arguments[:1]).name
    # Each needs its own packages, which need not be there for the others.
    status: int | None = importlib.import_module(f"training.benchmarks.{name}").main(arguments[1:])
    return status or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
