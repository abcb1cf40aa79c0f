"""Masks from Python with a model file alone: no torch, integers between image and mask.

Run: python examples/predict_in_python.py runs/demo [IMAGE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from quantunet.data.phantom import phantom_dataset
from quantunet.data.read import read_image
from quantunet.integer_model import IntegerModel

model = IntegerModel.load(sys.argv[1])
channels = model.graph.input.channels
samples = read_image(Path(sys.argv[2]), channels) if len(sys.argv) > 2 else phantom_dataset(1, 1).samples
for sample in samples:
    mask = model(sample.image)  # (h, w), class indices
    print(f"{sample.name}: {mask.shape[0]}x{mask.shape[1]} pixels, {100 * (mask > 0).mean():.2f} % foreground")
print(f"executed as {model.backend}")
