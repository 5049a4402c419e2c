"""PaDiM (Defard et al., ICPR 2021), on EfficientNet-lite0."""
