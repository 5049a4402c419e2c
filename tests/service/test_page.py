"""The operator's page never shows the verdict of one part beside the picture of another, whatever comes when."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS.parent / "service" / "web" / "try.js"

Shown = tuple[str | None, str | None, str]
NOTHING: Shown = (None, None, "")


def shown(verdict: str, sent: str, overlay: str) -> Shown:
    return verdict, sent, f"data:image/png;base64,{overlay}"


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: it runs the script of the page")
    return found


# Both dropped, the later answered first.
REVERSED = [("drop A", NOTHING), ("drop B", NOTHING), ("answer B OK", shown("OK", "B", "B"))]


@pytest.mark.parametrize(
    "steps",
    [
        [("drop A", NOTHING), ("answer A NG", shown("NG", "A", "A")), ("drop B", NOTHING)],
        [("drop A", NOTHING), ("drop B", NOTHING), ("answer A NG", NOTHING), ("answer B OK", shown("OK", "B", "B"))],
        [*REVERSED, ("answer A NG", shown("OK", "B", "B"))],
        [*REVERSED, ("fail A", shown("OK", "B", "B"))],
        [*REVERSED, ("keep B", shown("OK", "masked B", "B")), ("keep A", shown("OK", "masked B", "B"))],
        [("drop A", NOTHING), ("fail A", ("NOT INSPECTED", None, ""))],
    ],
    ids=["next", "late", "reversed", "failed", "masked", "alone"],
)
def test_picture_verdict_and_overlay_are_of_one_part(node: str, steps: list[tuple[str, Shown]]) -> None:
    command = [node, str(TESTS / "support" / "page.js"), str(SCRIPT), *(step for step, _ in steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [tuple(json.loads(line).values()) for line in done.stdout.splitlines()]
    assert found == [expected for _, expected in steps]
