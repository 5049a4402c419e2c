import numpy as np
import torch

from training.losses import focal_loss, gaussian_window, ssim_loss, ssim_map
from training.methods.draem.lesson import draem_losses


def test_losses_give_the_authors_values() -> None:
    """Figures computed with the authors' loss functions on the same seeded arrays."""
    rng = np.random.default_rng(21)
    a = rng.uniform(0, 1, (2, 3, 64, 64))
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1)
    logits = rng.normal(0, 1, (2, 2, 64, 64))
    mask = rng.uniform(0, 1, (2, 1, 64, 64)) > 0.8
    clean, rec, logits, mask = (torch.from_numpy(x.astype(np.float32)) for x in (a, b, logits, mask))

    losses = draem_losses(rec, logits, clean, mask)

    assert abs(losses["ssim"].item() - 0.051238) < 2e-6
    assert abs(losses["l2"].item() - 0.008965) < 2e-6
    assert abs(losses["focal"].item() - 0.479966) < 5e-6


def test_ssim_of_equal_images_is_zero_and_of_an_inverted_one_is_large() -> None:
    image = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert abs(ssim_loss(image, image).item()) < 1e-6
    assert ssim_loss(1 - image, image).item() > 1.5


def test_focal_loss_reaches_normal_and_anomalous_pixels() -> None:
    logits = torch.zeros((1, 2, 4, 4), requires_grad=True)
    mask = torch.zeros((1, 1, 4, 4))
    mask[..., :2] = 1
    focal_loss(logits, mask).backward()
    assert logits.grad is not None
    assert logits.grad[:, :, :, :2].abs().sum() > 0
    assert torch.allclose(logits.grad[:, :, :, :2].abs().sum(), logits.grad[:, :, :, 2:].abs().sum())


def test_focal_loss_is_finite_for_confident_mistakes() -> None:
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1)
    assert torch.isfinite(focal_loss(logits, torch.ones((1, 1, 1, 1))))


def test_gradient_of_ssim_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand((1, 2, 13, 15), generator=generator, dtype=torch.float64)
    prediction = torch.rand(target.shape, generator=generator, dtype=torch.float64).requires_grad_()
    window = gaussian_window().double()
    assert torch.autograd.gradcheck(lambda images: ssim_map(images, target, window), (prediction,))
