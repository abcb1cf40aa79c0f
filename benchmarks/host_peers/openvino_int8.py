"""OpenVINO with NNCF's post-training quantization to 8 bits. Needs: openvino nncf torch."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import openvino
from network import build, calibration_images
from serve import arguments, current_mib, serve


def quantize(base: int, levels: int, upsampling: str, size: int, path: Path) -> None:
    """Write the quantized model; in a process of its own, since this takes memory that is not inference's."""
    import nncf

    images = calibration_images(size)
    converted = openvino.convert_model(build(base, levels, upsampling), example_input=images[0])
    converted.reshape([1, 1, size, size])
    openvino.save_model(nncf.quantize(converted, nncf.Dataset([image.numpy() for image in images])), path)


def main() -> None:
    """Quantize if need be, then serve."""
    options = arguments()
    network = (options.base, options.levels, options.upsampling, options.size)
    path = Path(tempfile.gettempdir()) / f"quantunet_openvino_{'_'.join(map(str, network))}.xml"
    if not path.exists():
        process = multiprocessing.get_context("spawn").Process(target=quantize, args=(*network, path))
        process.start()
        process.join()
    mib_before = current_mib()
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": options.threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    image = np.random.default_rng(0).random((1, 1, options.size, options.size), np.float32)
    serve("openvino", lambda: request.infer({0: image}), mib_before)


if __name__ == "__main__":
    main()
