"""FINN's estimate of tables, RAMs, multipliers and clocks, at a folding. Runs in FINN's environment."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from finn.analysis.fpgadataflow.exp_cycles_per_layer import exp_cycles_per_layer
from finn.analysis.fpgadataflow.res_estimation import res_estimation
from finn.transformation.fpgadataflow.create_dataflow_partition import CreateDataflowPartition
from finn.transformation.fpgadataflow.set_folding import SetFolding
from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.general import GiveUniqueNodeNames

COUNTED = {"LUT": "lut", "BRAM_18K": "bram18", "DSP": "dsp", "URAM": "uram"}
HARDWARE = "finn.custom_op.fpgadataflow"
FOLDING = ("PE", "SIMD")


def hardware_part(model: ModelWrapper) -> ModelWrapper:
    """The hardware layers without what stays with the host, before and after them.

    Raises:
        ValueError: if they are not one piece.
    """
    with tempfile.TemporaryDirectory() as folder:
        parent = model.transform(CreateDataflowPartition(partition_model_dir=Path(folder)))
        parts = parent.get_nodes_by_op_type("StreamingDataflowPartition")
        if len(parts) != 1:
            raise ValueError(f"{len(parts)} pieces of hardware layers, not one")
        return ModelWrapper(getCustomOp(parts[0]).get_nodeattr("model"))


def specialise(model: ModelWrapper, fpga_part: str) -> ModelWrapper:
    """Each layer in HLS or RTL, by FINN's choice, at PE = SIMD = 1."""
    return model.transform(SpecializeLayers(fpga_part)).transform(GiveUniqueNodeNames())


def fold(specialised: ModelWrapper, cycles: int) -> ModelWrapper:
    """PE and SIMD such that no layer takes more than ``cycles`` clocks an image, where FINN can."""
    return specialised.transform(SetFolding(cycles)).transform(GiveUniqueNodeNames())


def with_folding_of(model: ModelWrapper, folded: ModelWrapper) -> ModelWrapper:
    """``model``, which executes in Python, with PE and SIMD of ``folded``, whose layers need the vendor's tools."""
    changed = ModelWrapper(model.model, make_deepcopy=True)
    layers = [node for node in changed.graph.node if node.domain.startswith(HARDWARE)]
    for node, other in zip(layers, folded.graph.node, strict=True):
        if not other.op_type.startswith(node.op_type):
            raise ValueError(f"layer {node.name} stands where {other.name} does: the orders differ")
        layer, source = getCustomOp(node), getCustomOp(other)
        for name in FOLDING:
            if name in layer.get_nodeattr_types():
                layer.set_nodeattr(name, source.get_nodeattr(name))
    return changed


def estimate(specialised: ModelWrapper, fpga_part: str) -> dict[str, Any]:
    """By layer and in total; FIFOs are not in it, whose depths FINN takes from a simulation of the vendor's."""
    found = specialised.analysis(partial(res_estimation, fpgapart=fpga_part))
    cycles = specialised.analysis(exp_cycles_per_layer)
    layers = []
    for node in specialised.graph.node:
        layer = getCustomOp(node)
        folding = {name: layer.get_nodeattr(name) for name in FOLDING if name in layer.get_nodeattr_types()}
        counts = {ours: int(found[node.name].get(theirs, 0)) for theirs, ours in COUNTED.items()}
        layers.append({"name": node.name, **folding, **counts, "cycles": int(cycles[node.name])})
    total = {name: sum(layer[name] for layer in layers) for name in COUNTED.values()}
    return {"layers": layers, "total": total, "cycles": max(layer["cycles"] for layer in layers)}
