import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.base import Scored
from service.bundle.manifest import Calibration
from training.bundling.calibration import calibrate, photos_needed, why_unfit
from training.evaluation.metrics import clopper_pearson

FLAT = np.zeros((4, 4), np.float32)
NONE: list[Scored] = []


def flat(scores: np.ndarray) -> list[Scored]:
    """Parts with these scores and maps of nothing."""
    return [Scored(FLAT, float(score)) for score in scores]


def test_false_reject_rate_is_kept_on_new_parts() -> None:
    """Averaged over calibrations, new good parts exceed reject at most as often as promised."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        scores = rng.beta(2, 20, 199).astype(np.float32)
        reject = calibrate(flat(scores), NONE, false_reject_rate=0.05).reject
        rates.append((rng.beta(2, 20, 2000) >= reject).mean())
    assert 0.03 < np.mean(rates) <= 0.052


def test_too_few_parts_put_reject_above_all_of_them_and_warn() -> None:
    scores = np.array([0.01, 0.02, 0.06], np.float32)
    thresholds = calibrate(flat(scores), NONE, false_reject_rate=0.01)
    assert thresholds.reject == pytest.approx(0.10, abs=1e-6)
    assert thresholds.review > 0.06
    assert thresholds.calibration.warning is not None
    assert "99" in thresholds.calibration.warning


def test_photos_that_were_trained_on_promise_nothing() -> None:
    scores = np.linspace(0.01, 0.02, 200).astype(np.float32)
    warning = calibrate(flat(scores), NONE, false_reject_rate=0.01, trained_on=True).calibration.warning
    assert warning is not None
    assert "calibrate on photos that it has not seen" in warning


def test_enough_parts_do_not_warn() -> None:
    scores = np.linspace(0, 0.2, 99, dtype=np.float32)
    assert calibrate(flat(scores), NONE, false_reject_rate=0.01).calibration.warning is None


def test_escapes_of_simulated_defects_are_counted_not_used() -> None:
    scores = np.linspace(0, 0.2, 120, dtype=np.float32)
    defects = flat(np.array([0.05, 0.9, 0.95, 0.99], np.float32))
    with_defects = calibrate(flat(scores), defects, false_reject_rate=0.01)
    without = calibrate(flat(scores), NONE, false_reject_rate=0.01)
    assert with_defects.calibration.escapes == 1
    assert (with_defects.review, with_defects.reject) == (without.review, without.reject)


def test_pixel_threshold_is_above_good_maps_and_below_a_saturated_defect() -> None:
    anomaly_map = np.full((32, 32), 0.7, np.float32)
    good = [Scored(anomaly_map, score) for score in np.linspace(0, 0.5, 40).tolist()]
    assert calibrate(good, NONE, false_reject_rate=0.01).pixel == pytest.approx(0.7)
    anomaly_map[:4, :4] = 1.0
    assert calibrate(good, NONE, false_reject_rate=0.01).pixel < 1.0


def test_the_pixel_threshold_outlines_rendered_defects_and_leaves_none_that_is_ng_without_a_region() -> None:
    good = flat(np.linspace(0, 0.2, 120, dtype=np.float32))
    halo, mask = np.full((32, 32), 0.35, np.float32), np.zeros((32, 32), np.bool_)
    mask[8:16, 8:16] = True
    sharp = np.where(mask, np.float32(0.8), halo)
    chosen = calibrate(good, [Scored(sharp, 0.8)], false_reject_rate=0.01, masks=[mask])
    assert ((sharp >= chosen.pixel) == mask).all()
    faint, escaped = np.where(mask, np.float32(0.3), 0.1 * halo), np.where(mask, np.float32(0.05), 0 * halo)
    both = [Scored(sharp, 0.8), Scored(faint, 0.3), Scored(escaped, 0.01)]
    chosen = calibrate(good, both, false_reject_rate=0.01, masks=[mask] * 3)
    assert 0.05 < chosen.pixel <= np.float32(0.3)


def test_clopper_pearson_known_values() -> None:
    assert clopper_pearson(0, 100) == pytest.approx((0.0, 0.03622), abs=1e-5)
    assert clopper_pearson(5, 50) == pytest.approx((0.03328, 0.21814), abs=1e-5)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60),
    st.floats(0.001, 0.3),
)
def test_thresholds_are_ordered_and_typical_parts_are_ok(scores: list[float], rate: float) -> None:
    array = np.array(scores, np.float32)
    thresholds = calibrate(flat(array), NONE, false_reject_rate=rate)
    assert 0 <= thresholds.review <= thresholds.reject <= 1
    if array.max() < 1:
        assert np.median(array) < thresholds.reject


@pytest.mark.parametrize(("escapes", "unfit"), [(0, False), (40, False), (41, True), (100, True)])
def test_a_recipe_is_unfit_where_too_many_rendered_defects_pass(escapes: int, unfit: bool) -> None:
    calibration = Calibration(
        target_false_reject_rate=0.01,
        good_images=100,
        false_rejects=1,
        false_reject_interval=(0.0, 0.05),
        defect_images=100,
        defect_source="simulated",
        escapes=escapes,
        escape_interval=(0.0, 1.0),
    )
    why = why_unfit(calibration, 0.4)
    assert (why is not None) is unfit
    assert why is None or f"{escapes} of 100" in why


def test_the_photos_that_a_promise_takes() -> None:
    """With one photo fewer the threshold is extrapolated, and says so."""
    assert photos_needed(0.01) == 99
    assert photos_needed(0.1) == 9
