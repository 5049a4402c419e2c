"""PatchCore (Roth et al., CVPR 2022), on EfficientNet-lite0."""
