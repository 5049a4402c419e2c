"""The commands by name."""

from __future__ import annotations

from importlib.util import find_spec

from training.commands import bench, collect, demo_data, evaluate, export, import_checkpoint, queue, recalibrate, train
from training.commands.command import Command
from training.commands.settings import with_settings

_TRAINING = ("data", "recipe", "textures", "method", "preset", "device", "models", "region", "ignore")

COMMANDS: dict[str, Command] = {
    "train": Command(lambda method, preset: with_settings(train.Train, method, preset or "edge"), train.run, _TRAINING),
    "queue": Command(lambda method, preset: with_settings(queue.Queue, method, preset or "edge"), queue.run, _TRAINING),
    "evaluate": Command(lambda *_: evaluate.Evaluate, evaluate.run),
    "export": Command(lambda *_: export.Export, export.run),
    "import-checkpoint": Command(
        lambda method, _: import_checkpoint.request_of(method), import_checkpoint.run, method="draem"
    ),
    "bench": Command(
        lambda method, preset: with_settings(bench.Bench, method, preset or "edge"),
        bench.run,
        ("bundle", "method", "preset", "threads", "batch", "rounds", "out"),
        "draem",
    ),
    "collect": Command(lambda *_: collect.Collect, collect.run),
    "recalibrate": Command(lambda *_: recalibrate.Recalibrate, recalibrate.run),
    "demo-data": Command(lambda *_: demo_data.DemoData, demo_data.run),
}

# Not in what is installed.
if find_spec("training.experiments"):
    from training.commands import laboratory

    COMMANDS |= laboratory.COMMANDS
