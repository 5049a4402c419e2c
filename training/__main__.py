"""`python -m training`: train, evaluate and export recipes from the command line."""

import sys

from training.commands import run

if __name__ == "__main__":
    sys.exit(run())
