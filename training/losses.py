"""Losses and distances that methods are built of: SSIM (Wang et al. 2004), MSGMS (RIAD, Zavrtanik et al. 2021), focal.

Images are `(N, C, H, W)` float32 in [0, 1].
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def ssim_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - mean SSIM of `(N, C, H, W)` images in [0, 1]."""
    return 1 - ssim_map(prediction, target, _window_on(prediction.device)).mean()


def ssim_map(prediction: Tensor, target: Tensor, gaussian: Tensor) -> Tensor:
    """SSIM `(N, C, H, W)` in [-1, 1] of each pixel of two such images in [0, 1] (Wang et al. 2004).

    Window 11x11 with the profile `gaussian` (see `gaussian_window`), zero padding. The authors' code guesses the
    dynamic range from the prediction, which makes it 2 while an untrained network still leaves [0, 1]; here it is 1.
    """
    c1, c2 = 0.01**2, 0.03**2
    mu_t, tt = _blur(torch.cat((target, target * target), dim=1), gaussian).chunk(2, dim=1)
    products = torch.cat((prediction, prediction * prediction, prediction * target), dim=1)  # (N, 3C, H, W)
    blurred: Tensor = _Blur.apply(products, gaussian)  # type: ignore[no-untyped-call]
    mu_p, pp, pt = blurred.chunk(3, dim=1)
    variance_p, variance_t, covariance = pp - mu_p * mu_p, tt - mu_t * mu_t, pt - mu_p * mu_t
    luminance = (2 * mu_p * mu_t + c1) / (mu_p * mu_p + mu_t * mu_t + c1)
    structure = (2 * covariance + c2) / (variance_p + variance_t + c2)
    return luminance * structure


def gaussian_window() -> Tensor:
    """Profile `(11,)` of SSIM's window, sigma 1.5, sum 1."""
    x = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(x**2) / (2 * 1.5**2))
    return (window / window.sum()).float()


class _Blur(torch.autograd.Function):
    """`_blur`, which is its own gradient. torch's takes ten times as long on the CPU: it sees weights in the window."""

    @staticmethod
    def forward(context: Any, images: Tensor, profile: Tensor) -> Tensor:
        context.save_for_backward(profile)
        return _blur(images, profile)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _blur(gradients[0], *context.saved_tensors), None


def _blur(images: Tensor, profile: Tensor) -> Tensor:
    """`(N, C, H, W)` through a symmetric profile `(K,)`, K odd, along both axes, zeros outside."""
    channels, pad = images.shape[1], len(profile) // 2
    window = profile.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    rows = functional.conv2d(images, window, padding=(0, pad), groups=channels)
    return functional.conv2d(rows, window.transpose(2, 3), padding=(pad, 0), groups=channels)


@cache
def _window_on(device: torch.device) -> Tensor:
    return gaussian_window().to(device)


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), gamma 2, no class weights: `(N, 2, H, W)` logits against a `(N, 1, H, W)` mask.

    The authors smooth the one-hot target and then the probability by 1e-5 each, which also keeps the logarithm finite.
    """
    smooth = 1e-5
    p = functional.softmax(logits, dim=1).gather(1, mask.long())
    p = p * (1 - smooth) + (1 - p) * smooth + smooth
    return -((1 - p) ** 2 * p.log()).mean()


def prewitt_kernels() -> Tensor:
    """Prewitt's derivative filters over 3, along x and along y: `(2, 1, 3, 3)`."""
    along_x = torch.tensor([[1.0, 0.0, -1.0]]).expand(3, 3) / 3
    return torch.stack((along_x, along_x.T)).unsqueeze(1).contiguous()


def msgms_distance(reconstruction: Tensor, image: Tensor, prewitt: Tensor) -> Tensor:
    """Distance `(N, 1, H, W)` in [0, 1] by multi-scale gradient magnitude similarity of `(N, C, H, W)` images, smooth:
    the 21x21 mean of `msgms_map`.
    """
    return functional.avg_pool2d(msgms_map(reconstruction, image, prewitt), 21, stride=1, padding=10)


def msgms_map(reconstruction: Tensor, image: Tensor, prewitt: Tensor) -> Tensor:
    """Distance `(N, 1, H, W)` in [0, 1] of each pixel.

    RIAD (Zavrtanik et al. 2021, Pattern Recognition 112): at four scales, each half the last, 1 - (2 a b + c) / (a^2 +
    b^2 + c) of the gradient magnitudes a and b, c = 0.0026; enlarged, averaged over scales and channels.
    """
    size = image.shape[2:]
    total = torch.zeros_like(image[:, :1])
    for scale in range(4):
        if scale:
            reconstruction, image = functional.avg_pool2d(reconstruction, 2), functional.avg_pool2d(image, 2)
        a, b = _gradient(reconstruction, prewitt), _gradient(image, prewitt)
        similarity = (2 * a * b + 0.0026) / (a * a + b * b + 0.0026)
        distance = 1 - similarity.mean(dim=1, keepdim=True)
        total = total + functional.interpolate(distance, size=size, mode="bilinear", align_corners=False)
    return total / 4


def msgms_loss(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Mean of `msgms_map`."""
    return msgms_map(reconstruction, image, _prewitt_on(image.device)).mean()


def _gradient(image: Tensor, prewitt: Tensor) -> Tensor:
    """Gradient magnitude of every channel; the edge rows and columns count as going on outside."""
    channels = image.shape[1]
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    kernels = prewitt.repeat(channels, 1, 1, 1)
    both = functional.conv2d(padded, kernels, groups=channels)  # (N, 2C, H, W): x and y of each channel in turn
    # The root of 0 has no gradient to learn from.
    return (both[:, ::2] ** 2 + both[:, 1::2] ** 2 + 1e-12).sqrt()


@cache
def _prewitt_on(device: torch.device) -> Tensor:
    return prewitt_kernels().to(device)
