"""What is held of every ready architecture; the page of `models/` shows it as a table.

This file is also read without its package: it imports nothing.
"""

from typing import Any, Final

BITS: Final[dict[str, dict[str, Any]]] = {
    "W8A8": {"weight_bits": 8, "activation_bits": 8},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W2A4": {"weight_bits": 2, "activation_bits": 4},
    "W2A2": {"weight_bits": 2, "activation_bits": 2},
    "W2AF": {"weight_bits": 2, "activation_bits": "float"},
}
OF_TORCHVISION: Final = ("torchvision:shufflenet_v2_x0_5",)
METHODS: Final[dict[str, dict[str, Any]]] = {
    "retrain": {},
    "qmul": {"epochs": 1, "batch": 8},
    "held_out_match": {"epochs": 1, "batch": 8},
    "unsir": {"noise_images": 4, "noise_steps": 2, "copies": 2, "batch": 8},
}
# What is computed in floats between grids, and of that what no rule proves the same on every processor.
FLOATS: Final = {"squeezenet1_1": "the mean of its logits", "vit": "layer-norm, softmax"}
NOT_PROVEN: Final = {"vit": "square roots"}
PRODUCTS_OF_MATRICES: Final = {"vit": 12}  # two in each block
