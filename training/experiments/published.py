"""Published figures, beside which ours are put."""

from __future__ import annotations

# Image AUROC, pixel AUROC and pixel AP in percent.
Figures = tuple[float, float, float]

# Zavrtanik et al. 2021, tables 1 and 2, by data set, method and category.
PAPER: dict[str, dict[str, dict[str, Figures]]] = {
    "mvtec": {
        "draem": {
            "bottle": (99.2, 99.1, 86.5),
            "capsule": (98.5, 94.3, 49.4),
            "grid": (99.9, 99.7, 65.7),
            "leather": (100.0, 98.6, 75.3),
            "pill": (98.9, 97.6, 48.5),
            "tile": (99.6, 99.2, 92.3),
            "transistor": (93.1, 90.9, 50.7),
            "zipper": (100.0, 98.8, 81.5),
            "cable": (91.8, 94.7, 52.4),
            "carpet": (97.0, 95.5, 53.5),
            "hazelnut": (100.0, 99.7, 92.9),
            "metal_nut": (98.7, 99.5, 96.3),
            "screw": (93.9, 97.6, 58.2),
            "toothbrush": (100.0, 98.1, 44.7),
            "wood": (99.1, 96.4, 77.7),
        },
        "us": {
            "bottle": (99.0, 97.8, 74.2),
            "capsule": (86.1, 96.8, 25.9),
            "grid": (81.0, 89.9, 10.1),
            "leather": (88.2, 97.8, 40.9),
            "pill": (87.9, 96.5, 62.0),
            "tile": (99.1, 92.5, 65.3),
            "transistor": (81.8, 73.7, 27.1),
            "zipper": (91.9, 95.6, 36.1),
            "cable": (86.2, 91.9, 48.2),
            "carpet": (91.6, 93.5, 52.2),
            "hazelnut": (93.1, 98.2, 57.8),
            "metal_nut": (82.0, 97.2, 83.5),
            "screw": (54.9, 97.4, 7.8),
            "toothbrush": (95.3, 97.9, 37.7),
            "wood": (97.7, 92.1, 53.3),
        },
        "riad": {
            "bottle": (99.9, 98.4, 76.4),
            "capsule": (88.4, 92.8, 38.2),
            "grid": (99.6, 98.8, 36.4),
            "leather": (100.0, 99.4, 49.1),
            "pill": (83.8, 95.7, 51.6),
            "tile": (98.7, 89.1, 52.6),
            "transistor": (90.9, 87.7, 39.2),
            "zipper": (98.1, 97.8, 63.4),
            "cable": (81.9, 84.2, 24.4),
            "carpet": (84.2, 96.3, 61.4),
            "hazelnut": (83.3, 96.1, 33.8),
            "metal_nut": (88.5, 92.5, 64.3),
            "screw": (84.5, 98.8, 43.9),
            "toothbrush": (100.0, 98.9, 50.6),
            "wood": (93.0, 85.8, 38.2),
        },
        "padim": {
            "bottle": (99.8, 98.2, 77.3),
            "capsule": (91.5, 98.6, 46.7),
            "grid": (95.7, 97.1, 35.7),
            "leather": (100.0, 99.0, 53.5),
            "pill": (94.4, 95.7, 61.2),
            "tile": (97.4, 94.1, 52.4),
            "transistor": (97.8, 97.6, 72.0),
            "zipper": (90.9, 98.4, 58.2),
            "cable": (92.2, 96.7, 45.4),
            "carpet": (99.9, 99.0, 60.7),
            "hazelnut": (93.3, 98.1, 61.1),
            "metal_nut": (99.2, 97.3, 77.4),
            "screw": (84.4, 98.4, 21.7),
            "toothbrush": (97.2, 98.8, 54.7),
            "wood": (98.8, 94.1, 46.3),
        },
    },
    # No table of the paper has it: what others published on this split stands in OTHERS.
    "magnetic_tile": {"draem": {}, "us": {}, "riad": {}, "padim": {}},
}
AVERAGE: dict[str, dict[str, Figures]] = {
    "mvtec": {
        "draem": (98.0, 97.3, 68.4),
        "us": (87.7, 93.9, 45.5),
        "riad": (91.7, 94.2, 48.2),
        "padim": (95.5, 97.4, 55.0),
    },
}
# Image AUROC in percent by data set, as quoted in the literature; not verified.
OTHERS: dict[str, dict[str, float]] = {
    "magnetic_tile": {"DifferNet": 97.7, "PatchCore": 97.9, "CS-Flow": 99.3},
}
