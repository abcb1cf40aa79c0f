"""LiteRT with XNNPACK, 8 bits by post-training quantization (pt2e, per channel). Needs: litert-torch."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
from network import build, calibration_images
from serve import arguments, current_mib, serve


def quantize(base: int, levels: int, upsampling: str, size: int, path: Path) -> None:
    """Write the model; in a process of its own, since this takes memory that is not inference's."""
    import litert_torch
    import torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    images = calibration_images(size)
    exported = torch.export.export(build(base, levels, upsampling), (images[0],)).module()
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    prepared = prepare_pt2e(exported, quantizer)
    for image in images:
        prepared(image)
    converted = convert_pt2e(prepared, fold_quantize=False)
    litert_torch.convert(converted, (images[0],), quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(str(path))


def main() -> None:
    """Quantize if need be, then serve."""
    options = arguments()
    network = (options.base, options.levels, options.upsampling, options.size)
    path = Path(tempfile.gettempdir()) / f"quantunet_litert_{'_'.join(map(str, network))}.tflite"
    if not path.exists():
        process = multiprocessing.get_context("spawn").Process(target=quantize, args=(*network, path))
        process.start()
        process.join()
    from ai_edge_litert.interpreter import Interpreter

    mib_before = current_mib()
    interpreter = Interpreter(model_path=str(path), num_threads=options.threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    image = np.random.default_rng(0).integers(0, 127, (1, 1, options.size, options.size))
    interpreter.set_tensor(details["index"], image.astype(details["dtype"]))
    serve("litert", interpreter.invoke, mib_before)


if __name__ == "__main__":
    main()
