from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from training.bundling.graph import InspectionGraph
from training.bundling.onnx import to_onnx
from training.losses import gaussian_window, msgms_distance, prewitt_kernels, ssim_map
from training.methods.draem.config import preset
from training.methods.draem.variants import (
    DiscriminativeAlone,
    ReconstructiveAlone,
    build_network,
)
from training.networks.anomaly_map import AnomalyMap

TINY = {"size": 64, "reconstructive_width": 4, "discriminative_width": 4, "compact": False}


def _pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, 64, 64), generator=generator)
    return (image + 0.3 * torch.randn(image.shape, generator=generator)).clamp(0, 1), image


def test_msgms_is_the_published_formula() -> None:
    """Written again with scipy and OpenCV, from RIAD's description."""
    reconstruction, image = _pair()

    def gradient(channel: np.ndarray) -> np.ndarray:
        x, y = (ndimage.prewitt(channel, axis, mode="nearest") / 3 for axis in (1, 0))
        return np.hypot(x, y)

    expected = np.zeros((64, 64))
    for channel in range(3):
        a, b = reconstruction[0, channel].double().numpy(), image[0, channel].double().numpy()
        for _ in range(4):
            ga, gb = gradient(a), gradient(b)
            distance = 1 - (2 * ga * gb + 0.0026) / (ga**2 + gb**2 + 0.0026)
            expected += cv2.resize(distance, (64, 64), interpolation=cv2.INTER_LINEAR) / 12
            a, b = (x.reshape(len(x) // 2, 2, -1, 2).mean((1, 3)) for x in (a, b))
    expected = cv2.blur(expected, (21, 21))

    actual = msgms_distance(reconstruction, image, prewitt_kernels())[0, 0].numpy()
    # Away from the border, where the two libraries' filters disagree on what lies outside.
    np.testing.assert_allclose(actual[10:-10, 10:-10], expected[10:-10, 10:-10], atol=1e-5)
    assert 0.01 < actual.max() < 1


def test_ssim_map_is_the_formula_of_one_window() -> None:
    prediction, target = _pair()
    profile = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(profile, profile) / profile.sum() ** 2
    p, t = (x[0, 1, 20:31, 30:41].double().numpy() for x in (prediction, target))
    mean_p, mean_t = (window * p).sum(), (window * t).sum()
    variance_p, variance_t = (window * (p - mean_p) ** 2).sum(), (window * (t - mean_t) ** 2).sum()
    covariance = (window * (p - mean_p) * (t - mean_t)).sum()
    expected = (2 * mean_p * mean_t + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_p**2 + mean_t**2 + 1e-4) * (variance_p + variance_t + 9e-4)
    assert ssim_map(prediction, target, gaussian_window())[0, 1, 25, 35].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("distance", ["ssim", "msgms"])
def test_a_reconstructive_network_alone_maps_what_it_does_not_restore(distance: str) -> None:
    network = build_network(preset("quick", **TINY, networks="reconstructive", distance=distance)).eval()
    assert isinstance(network, ReconstructiveAlone)
    assert not any(name.startswith("network.discriminative") for name, _ in network.named_parameters())
    reconstruction, image = _pair()
    spoilt = image.clone()
    spoilt[:, :, 24:40, 24:40] = reconstruction[:, :, 24:40, 24:40]
    network.network.reconstructive = torch.nn.Identity()  # type: ignore[assignment]
    restored = network(image)[1].softmax(dim=1)[:, 1]
    assert restored.max() < 1e-5
    network.network.reconstructive.forward = lambda x: spoilt  # type: ignore[assignment]
    anomaly_map = network(image)[1].softmax(dim=1)[0, 1]
    assert anomaly_map[32, 32] > 0.02
    assert anomaly_map[:4].max() < 0.01 * anomaly_map[32, 32]


def test_the_ssim_map_is_half_of_one_minus_ssim() -> None:
    network = build_network(preset("quick", **TINY, networks="reconstructive")).eval()
    _, image = _pair()
    with torch.no_grad():
        reconstruction, logits = network(image)
        expected = (1 - ssim_map(reconstruction, image, gaussian_window()).mean(dim=1)) / 2
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1], expected, atol=2e-6, rtol=0)


def test_a_discriminative_network_alone_sees_only_the_image() -> None:
    network = build_network(preset("quick", **TINY, networks="discriminative")).eval()
    assert isinstance(network, DiscriminativeAlone)
    assert not any(name.startswith("network.reconstructive") for name, _ in network.named_parameters())
    _, image = _pair()
    seen = []
    network.network.discriminative.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    reconstruction, logits = network(image)
    assert logits.shape == (1, 2, 64, 64)
    assert torch.equal(reconstruction, image)
    assert torch.equal(seen[0], torch.cat((image, image), dim=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"networks": "reconstructive", "distance": "msgms"},
        {"networks": "reconstructive"},
        {"networks": "discriminative", "compact": True},
        {"compact": True},
    ],
    ids=str,
)
def test_a_variant_exports_like_the_whole(changes: dict[str, Any]) -> None:
    graph = InspectionGraph(AnomalyMap(build_network(preset("quick", **{**TINY, **changes})))).eval()
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    session = onnxruntime.InferenceSession(to_onnx(graph, 64, 64))
    maps, scores = session.run(None, {"image": image})
    with torch.inference_mode():
        expected_maps, expected_scores = graph(torch.from_numpy(image))
    np.testing.assert_allclose(maps, expected_maps.numpy(), atol=1e-4)
    np.testing.assert_allclose(scores, expected_scores.numpy(), atol=1e-4)


def test_the_untrained_network_says_the_prior_everywhere_and_only_where_it_is_asked_to() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    for compact, prior, expected in [(True, 0.01, 0.01), (False, 0.01, 0.01), (False, 0.0, 0.5)]:
        config = preset("edge", **{**TINY, "compact": compact}, anomaly_prior=prior)
        _, logits = build_network(config).eval()(image)
        assert logits.softmax(dim=1)[:, 1].mean().item() == pytest.approx(expected, rel=0.2)
    assert preset("paper").anomaly_prior == 0.0
