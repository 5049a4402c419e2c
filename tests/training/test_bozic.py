import numpy as np
import pytest
import torch

from training.loop.fit import learning_rate
from training.methods.bozic.config import PRESETS
from training.methods.bozic.method import BozicLesson, Outputs, targets
from training.methods.bozic.network import BozicMap, FeatureNorm, SegmentationDecision
from training.settings import changed
from training.simulation.simulator import AnomalySimulator, Batch, SimulatorConfig


def _batch() -> Batch:
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, 0, 16:40, 16:40] = 1
    image = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    return Batch(image, image, mask)


def test_feature_norm_is_its_formula() -> None:
    x = torch.randn((2, 3, 5, 7), generator=torch.Generator().manual_seed(0))
    channel = x[1, 2].double().numpy()
    expected = (channel - channel.mean()) / np.sqrt(channel.std() + 0.001)
    np.testing.assert_allclose(FeatureNorm(3)(x)[1, 2].detach().numpy(), expected, atol=1e-5)
    flat = torch.ones((1, 3, 4, 4), requires_grad=True)
    FeatureNorm(3)(flat).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_the_paper_has_about_as_many_weights() -> None:
    """15.64 million with two convolutions of 32 channels at the start, of which the released code has one."""
    weights = sum(p.numel() for p in SegmentationDecision(32).parameters())
    assert weights == pytest.approx(15.64e6, rel=0.01)


def test_the_decision_teaches_nothing_to_what_it_reads() -> None:
    torch.manual_seed(0)
    network = SegmentationDecision(2)
    network(torch.rand(2, 3, 64, 64))[1].sum().backward()
    assert all(p.grad is None for part in (network.volume, network.segmentation) for p in part.parameters())
    assert all(p.grad is not None for p in network.decision.parameters())


def test_targets_grow_the_mask_and_weigh_its_middle() -> None:
    target, weight = targets(_batch().mask, 7, 3.0, 2.0)
    assert target.shape == weight.shape == (2, 1, 8, 8)
    # 24 pixels and 3 more on each side lie in 5 cells of 8.
    assert target[0, 0].sum() == 25
    assert target[1].sum() == 0
    assert torch.equal(weight[1], torch.ones(1, 8, 8))
    assert torch.equal(weight[target == 0], torch.ones_like(weight[target == 0]))
    assert weight.max() == pytest.approx(3.0)
    assert weight[0, 0, 1, 1] < 1 < weight[0, 0, 3, 3]


def test_the_loss_goes_from_the_segmentation_to_the_decision() -> None:
    config = changed(PRESETS["bozic-edge"], {"width": 2, "size": 64, "decision_weight": 0.5})
    photos = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    simulator = AnomalySimulator(photos, photos, SimulatorConfig(), torch.Generator())
    lesson = BozicLesson(config, simulator, steps=10)
    shown = [
        lesson.losses(Outputs(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor(float(done))), _batch())
        for done in (0, 5, 10)
    ]
    assert [round(float(losses["decision"]), 4) for losses in shown] == [0, 0.1733, 0.3466]
    assert shown[0]["segmentation"] == 2 * shown[1]["segmentation"] > 0
    assert shown[2]["segmentation"] == 0


def test_a_network_remembers_how_far_it_has_learned() -> None:
    network = SegmentationDecision(2)
    for _ in range(3):
        network.train()(torch.rand(1, 3, 64, 64))
    assert network.state_dict()["learned"] == 3, "a resumed training goes on with the same balance"
    assert network.eval()(torch.rand(1, 3, 64, 64))[2] == 3


def test_the_map_is_the_segmentation_where_the_decision_is_sure() -> None:
    torch.manual_seed(0)
    network = SegmentationDecision(2).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        network.verdict.weight.zero_()
        network.verdict.bias.fill_(50)
        segmented = torch.sigmoid(network(image)[0])
        sure = BozicMap(network)(image)
        network.verdict.bias.fill_(-50)
        assert BozicMap(network)(image).max() < 1e-6
    assert sure.shape == (1, 64, 64)
    assert sure.mean() == pytest.approx(float(segmented.mean()), abs=1e-4)


def test_the_papers_rate_stays_and_even_windows_are_refused() -> None:
    paper = PRESETS["bozic-paper"]
    assert {learning_rate(paper, step, 100) for step in range(100)} == {0.05}
    assert paper.steps_for(209) == 70 * 209
    with pytest.raises(ValueError, match="dilation 8: choose an odd number"):
        changed(paper, {"dilation": 8})
