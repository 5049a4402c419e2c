"""`python -m training`: train, evaluate and export recipes from the command line."""

import sys
from importlib.util import find_spec

# Not loaded before a figure or a report is made: a training of hours must not end with the news that one is missing.
_LATE = ("matplotlib", "scipy", "sklearn")

try:
    from training.commands import run

    for name in _LATE:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
except ModuleNotFoundError as error:
    # What `make serve` installs is enough to serve.
    if str(error.name).partition(".")[0] in {"training", "service"}:
        raise
    sys.exit(f"error: training needs an extra: make .venv/.training, or pip install '.[cpu,training]' ({error})")

if __name__ == "__main__":
    sys.exit(run())
