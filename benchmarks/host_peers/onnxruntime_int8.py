"""ONNX Runtime, 8 bits by static quantization (QDQ, per channel). Needs: onnxruntime onnx onnxscript torch."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from network import build, calibration_images
from serve import arguments, current_mib, serve


def quantize(base: int, levels: int, upsampling: str, size: int, path: Path) -> None:
    """Write the quantized model; in a process of its own, since this takes memory that is not inference's."""
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Hands out the calibration images."""

        def __init__(self) -> None:
            self.images = [{"image": image.numpy()} for image in images]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.images.pop() if self.images else None

    images = calibration_images(size)
    float_path = path.with_suffix(".float.onnx")
    torch.onnx.export(build(base, levels, upsampling), (images[0],), float_path, input_names=["image"], dynamo=False)
    quantize_static(
        float_path, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def main() -> None:
    """Quantize if need be, then serve."""
    options = arguments()
    network = (options.base, options.levels, options.upsampling, options.size)
    path = Path(tempfile.gettempdir()) / f"quantunet_onnxruntime_{'_'.join(map(str, network))}.onnx"
    if not path.exists():
        process = multiprocessing.get_context("spawn").Process(target=quantize, args=(*network, path))
        process.start()
        process.join()
    mib_before = current_mib()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(path, settings, ["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 1, options.size, options.size), np.float32)
    serve("onnxruntime", lambda: session.run(None, {"image": image}), mib_before)


if __name__ == "__main__":
    main()
