"""The commands of the laboratory, which is in the checkout and not in what is installed."""

from __future__ import annotations

from training.commands import ablate, compare, reproduce
from training.commands.command import Command
from training.commands.settings import with_settings

COMMANDS: dict[str, Command] = {
    "ablate": Command(
        lambda method, preset: with_settings(
            ablate.Ablate, method, preset or "quick", without={*method.set_by_ablations, "tiles", "overlap"}
        ),
        ablate.run,
        ("data", "textures", "imagenet", "only", "method", "preset", "seed", "out"),
        "draem",
    ),
    "compare": Command(
        lambda *_: compare.Compare,
        compare.run,
        ("data", "textures", "methods", "steps", "seeds", "minutes", "intervals", "serve_winner", "out"),
    ),
    "reproduce": Command(
        lambda method, preset: with_settings(reproduce.Reproduce, method, preset or "paper"),
        reproduce.run,
        ("dataset", "data", "categories", "split", "textures", "method", "preset", "seed", "out"),
        "draem",
    ),
}
