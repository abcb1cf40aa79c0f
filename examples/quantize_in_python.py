"""A U-Net quantized and lowered by hand, without the command line: what the training does, in thirty lines.

Run: python examples/quantize_in_python.py
"""

from __future__ import annotations

import torch

from quantunet.fake_quant_proof import compare_codes
from quantunet.ir.layer_table import layer_table, totals
from quantunet.ir.ranges import prove
from quantunet.lower import lower
from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.prepare import assign_quantizers_, calibrate_, freeze_bit_widths_
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import LearnedPowerOfTwo

torch.manual_seed(0)
images = torch.randn(4, 1, 32, 32)
network = UNet(in_channels=1, out_channels=1, base_channels=4, levels=3).eval()

# 1. fold batch norm, quantize every layer at 4 bits (activations 8), calibrate
fold_batch_norm_(network)
assign_quantizers_(
    network,
    lambda channels, axis: LearnedPowerOfTwo(channels, axis, signed=True, bit_width=4),
    lambda signed: LearnedPowerOfTwo(None, 1, signed),
)
calibrate_(network, [images])

# 2. here the weights, exponents and widths would train; then the widths are fixed
freeze_bit_widths_(network)

# 3. lower, prove, count
graph = lower(network)
widest = max(proof.bit_width for proof in prove(graph))
count = compare_codes(network, graph, list(images.numpy()))
whole = totals(graph, layer_table(graph, 32, 32), 32, 32)
print(f"{len(graph.nodes)} nodes, {whole.packed_weight_bytes} bytes of weights, {whole.macs:,} multiply-accumulates")
print(f"no accumulator needs more than {widest} bits, for any input whatever")
print(f"{count.differing} of {count.compared:,} codes differ between the network and its integers")
