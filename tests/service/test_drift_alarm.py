"""The drift alarm on a simulated line: it speaks where scores changed, and not for nothing."""

from measure_drift import measure, shifted


def test_the_alarm_speaks_soon_after_a_large_change_and_not_before() -> None:
    found = measure(shifted(2.0), calibration=100, seed=0, parts=9_000, change_at=5_000)
    assert found.false == 0
    assert found.delay is not None
    # Half an hour that the rule waits, and the window of the newest scores.
    assert 1_800 <= found.delay < 2_500


def test_the_alarm_is_silent_where_nothing_changes() -> None:
    found = measure(None, calibration=100, seed=1, parts=9_000)
    assert (found.false, found.delay) == (0, None)
