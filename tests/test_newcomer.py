"""What a newcomer asks first: each README's table names a place, and the place is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The nine questions of a newcomer, by a word of each, and the half whose README answers it.
QUESTIONS = {
    "thresholds computed": "training",
    "JPEG become pixels": "service",
    "backend chosen": "service",
    "NG decided": "service",
    "method added": "training",
    "metric added": "training",
    "route added": "service",
    "colours of a heatmap": "service",
    "queue": "service",
}


def _answers(half: str) -> dict[str, str]:
    text = (ROOT / half / "README.md").read_text()
    table = text.split("| question | file |\n|---|---|\n")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.M))


def _places(half: str, answer: str) -> list[Path]:
    named = [name for name in re.findall(r"`([^`]+)`", answer) if "/" in name]
    return [ROOT / name if name.startswith("tests/") else ROOT / half / name for name in named]


@pytest.mark.parametrize(("question", "half"), QUESTIONS.items())
def test_the_nine_questions_are_answered(question: str, half: str) -> None:
    (answer,) = [answer for asked, answer in _answers(half).items() if question in asked]
    assert _places(half, answer)


@pytest.mark.parametrize("half", ["service", "training"])
def test_every_answer_is_a_place_that_is_there(half: str) -> None:
    for question, answer in _answers(half).items():
        places = _places(half, answer)
        assert places, question
        for place in places:
            assert place.exists(), f"{question} {place}"
        sources = "".join(place.read_text() for place in places if place.is_file())
        for name in re.findall(r"`([\w.]+)`", re.sub(r"`[^`]*/[^`]*`", "", answer)):
            assert name.rpartition(".")[2] in sources, f"{question} {name}"
