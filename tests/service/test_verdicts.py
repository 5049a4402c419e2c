import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import service
import training
from service.bundle.manifest import Calibration, Thresholds
from service.station.verdicts import DeadlinePassedError, Evidence, UntrustedResultError, Verdict, judge

CALIBRATION = Calibration(
    target_false_reject_rate=0.01, good_images=0, false_rejects=0, false_reject_interval=(0.0, 1.0)
)
THRESHOLDS = Thresholds(review=0.3, reject=0.6, pixel=0.5, calibration=CALIBRATION)
SHAPE = (4, 4)
any_float = st.floats(allow_nan=True, allow_infinity=True)


@given(
    arrays(np.float32, st.sampled_from([(4, 4), (4, 3), (1, 4, 4), (16,)]), elements=st.floats(width=32)),
    any_float,
    st.lists(st.just("blurred"), max_size=1),
    any_float,
    any_float,
)
def test_ok_only_for_a_complete_finite_timely_low_result(
    anomaly_map: np.ndarray, score: float, faults: list[str], deadline: float, now: float
) -> None:
    try:
        verdict = judge(Evidence(anomaly_map, score, faults, deadline, now), THRESHOLDS, SHAPE)
    except (UntrustedResultError, DeadlinePassedError):
        return
    assert anomaly_map.shape == SHAPE
    assert np.isfinite(anomaly_map).all()
    assert 0 <= anomaly_map.min() <= anomaly_map.max() <= 1
    assert 0 <= score <= 1
    assert now <= deadline
    if faults:
        assert verdict is Verdict.NOT_INSPECTED
        return
    assert verdict is (Verdict.OK if score < 0.3 else Verdict.REVIEW if score < 0.6 else Verdict.NG)


def _judge(score: float = 0.1, value: float = 0.1, deadline: float = 1.0, now: float = 0.0) -> Verdict:
    return judge(Evidence(np.full(SHAPE, value, np.float32), score, [], deadline, now), THRESHOLDS, SHAPE)


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.0, "OK"), (0.2999, "OK"), (0.3, "REVIEW"), (0.5999, "REVIEW"), (0.6, "NG"), (1.0, "NG")]
)
def test_thresholds_belong_to_the_stricter_side(score: float, verdict: str) -> None:
    assert _judge(score) == verdict


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_values_that_cannot_be_are_not_judged(value: float) -> None:
    with pytest.raises(UntrustedResultError):
        _judge(value=value)
    with pytest.raises(UntrustedResultError):
        _judge(score=value)


def test_a_single_nan_pixel_is_enough_to_refuse() -> None:
    anomaly_map = np.zeros(SHAPE, np.float32)
    anomaly_map[3, 3] = np.nan
    with pytest.raises(UntrustedResultError):
        judge(Evidence(anomaly_map, 0.0, [], 1.0, 0.0), THRESHOLDS, SHAPE)


def test_late_results_are_not_judged() -> None:
    with pytest.raises(DeadlinePassedError):
        _judge(deadline=1.0, now=1.001)


def test_a_score_that_is_no_number_is_in_the_worst_band() -> None:
    assert THRESHOLDS.band(math.nan) == "NG"


def test_ok_is_produced_in_one_place_only() -> None:
    """In both halves: `Thresholds.band` alone names OK, and `judge` alone makes a verdict of it.

    `Verdict.OK` and "OK" may be compared with elsewhere; the client only repeats what the service said.
    """
    makers: dict[str, set[str]] = {"names OK": set(), "makes a verdict": set()}
    for half in (service, training):
        root = Path(str(half.__file__)).parent
        for path in root.rglob("*.py"):
            tree = ast.parse(path.read_text())
            harmless = {
                id(leaf)
                for node in ast.walk(tree)
                if isinstance(node, ast.Compare | ast.Subscript)
                for leaf in ast.walk(node)
            }
            for node in ast.walk(tree):
                if id(node) in harmless or path.parent.name == "client":
                    continue
                attribute = (
                    isinstance(node, ast.Attribute) and node.attr == "OK" and ast.unparse(node.value) == "Verdict"
                )
                name = str(path.relative_to(root.parent))
                if attribute or (isinstance(node, ast.Constant) and node.value == "OK"):
                    makers["names OK"].add(name)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Verdict":
                    makers["makes a verdict"].add(name)
    # Tallies count verdicts of before, as the records have them.
    assert makers == {
        # The enumeration's own member, and the band.
        "names OK": {"service/station/verdicts.py", "service/station/tallies.py", "service/bundle/manifest.py"},
        "makes a verdict": {"service/station/verdicts.py", "service/station/tallies.py"},
    }
