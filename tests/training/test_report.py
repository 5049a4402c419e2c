import base64
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from service.backends.base import Scored
from service.bundle.manifest import Calibration, InputSpec, OutlyingPhoto, Thresholds, TrainingRecord, UnusualPhoto
from training.data.labels import LabelledImage
from training.evaluation.parts import Parts, Sheet, labelled_parts
from training.evaluation.report import Training, render

CALIBRATION = Calibration(
    target_false_reject_rate=0.02,
    good_images=4,
    false_rejects=1,
    false_reject_interval=(0.0063, 0.8059),
    defect_images=3,
    defect_source="simulated",
    escapes=2,
    escape_interval=(0.0943, 0.9916),
    warning="4 photos are <too> few",
)
THRESHOLDS = Thresholds(review=0.3, reject=0.6, pixel=0.5, calibration=CALIBRATION)
METRICS = {
    "images": 5,
    "image_auroc": 0.91234,
    "pixel_ap": 0.5,
    "per_defect": {"dent": {"images": 2, "image_auroc": 0.875}, "hole": {"images": 1, "image_auroc": 1.0}},
    "per_size": {"small": {"images": 3, "image_auroc": 0.25, "escapes": 1, "escape_interval": [0.0084, 0.9057]}},
    "false_reject_rate": 0.5,
    "false_reject_interval": [0.0126, 0.9874],
    "escape_rate": 1 / 3,
    "escape_interval": [0.0084, 0.9057],
}
TRAINING = Training(
    TrainingRecord(config={"lr": 0.002, "simulator": {"opacity_min": 0.2}}, minutes=12.34),
    [{"step": i, "lr": 0.1, "l2": 1 / (i + 1), "ssim": 0.5, "focal": 0.0} for i in range(1000)],
    Sheet("Photo and mask", [torch.rand(3, 3, 64, 64), torch.ones(3, 1, 64, 64)]),
)


def _picture(index: int) -> np.ndarray:
    return np.full((80, 100, 3), 10 * index % 250, np.uint8)


def _parts(title: str, defects: bool, scores: list[float], *, labelled: bool) -> Parts:
    maps = np.zeros((len(scores), 64, 64), np.float32)
    maps[:, 8:16, 8:16] = np.array(scores)[:, None, None]

    def mask(index: int) -> np.ndarray:
        truth = np.zeros((64, 64), np.bool_)
        truth[8:16, 8:16] = defects
        return truth

    names = [f"{title}/{score}.png" for score in scores]
    kinds = ["dent"] * len(scores)
    return Parts(title, defects, names, np.float32(scores), maps, _picture, mask, kinds, labelled)


HELD_OUT = [
    _parts("held out", False, [0.1, 0.2, 0.3, 0.6], labelled=False),
    _parts("rendered", True, [0.1, 0.2, 0.9], labelled=False),
]
TEST = [_parts("good", False, [0.1, 0.7], labelled=True), _parts("<b>hole</b>", True, [0.2, 0.4, 0.8], labelled=True)]


def _text(*arguments: object) -> str:
    """The report's words, tags and images taken out."""
    html = render("part", "7", "top", *arguments).decode()  # type: ignore[arg-type]
    return re.sub(r"\s+", " ", re.sub(r"<style>.*</style>|<[^>]*>", " ", html, flags=re.DOTALL))


def test_it_leads_with_the_verdicts_and_how_sure_they_are() -> None:
    text = _text(THRESHOLDS, [*HELD_OUT, *TEST], METRICS, TRAINING)
    assert "parts OK REVIEW NG held out 4 2 1 1 rendered 3 2 0 1 good 2 1 0 1 &lt;b&gt;hole&lt;/b&gt; 3 1 1 1" in text
    assert "Score: top . A score below 0.3000 is OK, from 0.6000 on NG" in text
    assert "4 photos are &lt;too&gt; few" in text
    assert "at most 2 % of good parts rejected. Of 4 held-out good photos, never trained on, 1 would be" in text
    assert "95 % interval of that rate is 0.63 % to 80.6 %" in text
    assert "Rendered defects, not real ones: 2 of 3 would pass as OK, with 95 % confidence 9.43 % to 99.2 %" in text
    assert "Test parts: 50 % of the good test parts would be rejected, with 95 % confidence 1.26 % to 98.7 %" in text
    assert "Test parts: 33.3 % of the labelled defects would pass as OK" in text
    assert text.index("What the thresholds") < text.index("How sure") < text.index("Figures") < text.index("Settings")


def test_thresholds_of_photos_that_were_trained_on_promise_nothing() -> None:
    text = _text(THRESHOLDS, HELD_OUT, None, Training(TrainingRecord(calibrated_on_training_photos=True)))
    assert "Nothing is promised about good parts: the 4 photos that set the thresholds for 2 % false rejects" in text
    assert "never trained on" not in text


def test_mistakes_are_marked() -> None:
    html = render("part", "7", "top", THRESHOLDS, TEST, METRICS, TRAINING).decode()
    assert re.findall(r'class="wrong">(\d+)<', html) == ["1", "1"]
    good = [_parts("good", False, [0.1, 0.4], labelled=True), _parts("hole", True, [0.9], labelled=True)]
    assert 'class="wrong"' not in render("part", "7", "top", THRESHOLDS, good, METRICS, TRAINING).decode()


def test_figures_and_every_table_of_the_metrics_are_there() -> None:
    text = _text(THRESHOLDS, [*HELD_OUT, *TEST], METRICS, TRAINING)
    assert "image AUROC image AP pixel AUROC pixel AP PRO 91.23 50.00" in text, "what was not measured is blank"
    assert "per defect images image AUROC dent 2 87.50 hole 1 100.00" in text
    assert "per size images image AUROC escapes escape interval small 3 25.00 1 0.84 to 90.57" in text
    assert "config.simulator.opacity_min 0.2" in text
    assert "trained in 12.3 minutes" in text


def test_the_doubtful_parts_come_first() -> None:
    text = _text(THRESHOLDS, TEST, METRICS, TRAINING)
    assert "good/0.7.png: NG 0.7000 good/0.1.png: OK 0.1000" in text
    hole = "&lt;b&gt;hole&lt;/b&gt;"
    assert f"{hole}: lowest scores {hole}/0.2.png: OK 0.2000 {hole}/0.4.png: REVIEW 0.4000" in text


def test_it_needs_nothing_from_elsewhere_and_is_small() -> None:
    groups = [
        _parts(title, title != "good", list(np.random.default_rng(0).uniform(size=300)), labelled=True)
        for title in ("good", "hole")
    ]
    html = render("part", "7", "top", THRESHOLDS, groups, METRICS, TRAINING).decode()
    assert not re.search(r"https?://|url\(|<link|<script|<iframe|@import", html)
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 4 * 6 + 3 + 3, "galleries, samples and plots"
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,")) for source in sources)
    assert len(html) < 3e6


def test_pictures_are_photo_heatmap_and_ground_truth() -> None:
    html = render("part", "7", "top", THRESHOLDS, TEST, METRICS, TRAINING).decode()
    first = re.search(r'src="data:image/jpeg;base64,([^"]*)"></?[^>]*>good/0.7', html.replace("<figcaption>", "<x>"))
    assert first
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(first[1]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (160, 480, 3)
    photo, heatmap, truth = np.split(pixels.astype(int), 3, axis=1)
    spot = np.s_[24:36, 24:36]
    assert np.abs(heatmap[spot] - photo[spot]).mean() > 30
    assert truth.max() < 30, "a good part has no defect"
    defect = re.findall(r'base64,([^"]*)"', html.split("hole&lt;/b&gt;: lowest")[1])[0]
    truth = cv2.imdecode(np.frombuffer(base64.b64decode(defect), np.uint8), cv2.IMREAD_GRAYSCALE)[:, 320:]
    assert truth[spot].mean() > 220
    assert truth[60:, 60:].max() < 60


def test_without_labelled_parts_it_shows_the_held_out_ones_and_claims_no_figures() -> None:
    text = _text(THRESHOLDS, HELD_OUT, None, Training(TrainingRecord(imported=["a.pckl"])))
    assert "held out: highest scores held out/0.6.png: NG 0.6000" in text
    assert "rendered: lowest scores rendered/0.1.png: OK" in text
    assert "labelled" not in text
    assert "pixel AUROC" not in text
    assert "Test parts" not in text
    assert "trained in" not in text
    assert "imported [&#34;a.pckl&#34;]" in text


def test_good_photos_to_look_at_are_named() -> None:
    record = TrainingRecord(
        unusual_photos=[UnusualPhoto(photo="a<b>.png", deviations=5.1, x=0.25, y=0.5)],
        outlying_scores=[OutlyingPhoto(photo="c.png", score=0.91)],
    )
    text = _text(THRESHOLDS, HELD_OUT, None, Training(record))
    assert "a&lt;b&gt;.png: 5.1 deviations from the other good photos, most at 25 % of the width and 50 %" in text
    assert "c.png: scores 0.9100, far above the others" in text
    clean = _text(THRESHOLDS, HELD_OUT, None, Training(TrainingRecord(unusual_photos=[], outlying_scores=[])))
    assert "No photo was unlike the others" in clean
    assert "Good photos to look at" not in _text(THRESHOLDS, HELD_OUT, None, Training(TrainingRecord(imported=[])))


def test_rendered_defects_are_counted_by_kind_size_and_place() -> None:
    text = _text(THRESHOLDS, HELD_OUT, None, TRAINING)
    # One pixel of the 64x64 maps is four across of a 256x256 image: the squares of 8 are large.
    assert "per defect images image AUROC escapes escape interval dent 3 50.00 2 9.43 to 99.16" in text
    assert "per size images image AUROC escapes escape interval over 21 px 3 50.00 2" in text
    assert "per place images image AUROC escapes escape interval inside 3 50.00 2" in text


@pytest.mark.parametrize("scores", [[0.0, 0.0], [1.0, 1.0]])
def test_equal_scores_are_no_problem(scores: list[float]) -> None:
    groups = [_parts("good", False, scores, labelled=True), _parts("hole", True, scores, labelled=True)]
    assert (
        "Histogram" in render("part", "7", "top", THRESHOLDS, groups, METRICS, replace(TRAINING, samples=None)).decode()
    )


def test_good_test_parts_get_no_ground_truth_and_unmasked_defects_an_empty_one() -> None:
    images = [LabelledImage(Path("1.png"), "good", None), LabelledImage(Path("2.png"), "hole", None)]
    good, defects = labelled_parts(
        images, [Scored(np.zeros((32, 32), np.float32), 0.5)] * 2, InputSpec(height=32, width=32)
    )
    assert good.mask is None
    assert not defects.masks().any()
    assert defects.names == ["hole/2.png"]
