"""`python -m training`: train, evaluate and export recipes from the command line."""

import sys

try:
    from training.commands import run
except ModuleNotFoundError as error:
    # What `make serve` installs is enough to serve.
    if str(error.name).partition(".")[0] in {"training", "service"}:
        raise
    sys.exit(f"error: training needs an extra: make .venv/.training, or pip install '.[cpu,training]' ({error})")

if __name__ == "__main__":
    sys.exit(run())
