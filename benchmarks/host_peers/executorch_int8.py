"""ExecuTorch with XNNPACK, 8 bits by post-training quantization (pt2e, per channel). Needs: executorch torch."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import torch
from network import build, calibration_images
from serve import arguments, current_mib, serve


def quantize(base: int, levels: int, upsampling: str, size: int, path: Path) -> None:
    """Write the program; in a process of its own, since this takes memory that is not inference's."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    images = calibration_images(size)
    exported = torch.export.export(build(base, levels, upsampling), (images[0],)).module()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(exported, quantizer)
    for image in images:
        prepared(image)
    quantized = torch.export.export(convert_pt2e(prepared), (images[0],))
    program = to_edge_transform_and_lower(quantized, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)


def main() -> None:
    """Quantize if need be, then serve."""
    options = arguments()
    network = (options.base, options.levels, options.upsampling, options.size)
    path = Path(tempfile.gettempdir()) / f"quantunet_executorch_{'_'.join(map(str, network))}.pte"
    if not path.exists():
        process = multiprocessing.get_context("spawn").Process(target=quantize, args=(*network, path))
        process.start()
        process.join()
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    mib_before = current_mib()
    program = _load_for_executorch(str(path))
    image = torch.rand(1, 1, options.size, options.size)
    serve("executorch", lambda: program.forward([image]), mib_before)


if __name__ == "__main__":
    main()
