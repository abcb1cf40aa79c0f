"""FINN's way from a QONNX model to its hardware layers, as named steps; each returns the changed model.

Runs in FINN's environment (``make finn-check``). These are FINN's own transformations. What the default flow of its
builder lacks for a U-Net is the step ``lower``: up-sampling, skips and their joins have to leave channels-first too.
"""

from __future__ import annotations

from collections.abc import Callable

from finn.transformation.fpgadataflow.convert_to_hw.concat import InferConcatLayer
from finn.transformation.fpgadataflow.convert_to_hw.conv_inp_gen import InferConvInpGen
from finn.transformation.fpgadataflow.convert_to_hw.duplicate_streams import InferDuplicateStreamsLayer
from finn.transformation.fpgadataflow.convert_to_hw.elementwise_binary_operation import (
    InferElementwiseBinaryOperation,
)
from finn.transformation.fpgadataflow.convert_to_hw.pool import InferPool
from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
    InferQuantizedMatrixVectorActivation,
)
from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
from finn.transformation.fpgadataflow.convert_to_hw.upsample import InferUpsample
from finn.transformation.fpgadataflow.infer_pixel_padding_deconv import InferPixelPaddingDeconv
from finn.transformation.fpgadataflow.minimize_accumulator_width import MinimizeAccumulatorWidth
from finn.transformation.fpgadataflow.minimize_weight_bit_width import MinimizeWeightBitWidth
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
from finn.transformation.streamline import Streamline, absorb, reorder
from finn.transformation.streamline.round_thresholds import RoundAndClipThresholds
from onnx import helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation
from qonnx.transformation.general import GiveUniqueNodeNames, RemoveUnusedTensors
from qonnx.transformation.infer_data_layouts import InferDataLayouts
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul
from qonnx.util.cleanup import cleanup_model

Stage = tuple[str, Callable[[ModelWrapper], ModelWrapper]]


def stages(merged_thresholds: bool) -> list[Stage]:
    """The steps in order.

    Args:
        merged_thresholds: thresholds are part of the matrix layers, which are then all written in HLS; else layers of
            their own, whose tables FINN's estimate counts.
    """
    return [
        ("import and cleanup", cleanup_model),
        ("QONNX to FINN", lambda model: model.transform(ConvertQONNXtoFINN())),
        ("streamlining", lambda model: model.transform(Streamline())),
        ("convolutions lowered", lower),
        ("hardware layers", lambda model: to_hardware(model, merged_thresholds)),
        ("accumulators minimised", minimise),
    ]


def lower(model: ModelWrapper) -> ModelWrapper:
    """Convolutions to matrix products, and everything channels-last.

    ``AbsorbTransposeIntoResize`` is left out: it rewires the first input of the up-sampling's reader, whichever of its
    inputs the up-sampling is, so that a join whose up-sampled tensor stands second computes something else.
    """
    model = _apply(model, InferPixelPaddingDeconv(), LowerConvsToMatMul(), InputChannelsLast())
    for _ in range(len(model.graph.node)):
        before = [node.op_type for node in model.graph.node]
        model = _apply(
            model,
            reorder.MakeMaxPoolNHWC(),
            absorb.AbsorbTransposeIntoMultiThreshold(),
            InferDataLayouts(),
            reorder.MakeScaleResizeNHWC(),
            reorder.MoveTransposePastFork(),
            reorder.MoveTransposePastJoinConcat(),
            reorder.MoveTransposePastEltwise(),
            absorb.AbsorbConsecutiveTransposes(),
            InferDataLayouts(),
        )
        if [node.op_type for node in model.graph.node] == before:
            break
    return _apply(model, InferShapes(), InferDataTypes(), RoundAndClipThresholds(), RemoveUnusedTensors())


class InputChannelsLast(Transformation):
    """Two opposite transpositions behind the input of a graph that begins with thresholds.

    FINN makes thresholds channels-last that stand behind a convolution; with the second of the two these do as well.
    """

    def apply(self, model: ModelWrapper) -> tuple[ModelWrapper, bool]:
        """The changed model; once is enough."""
        source = model.graph.input[0].name
        readers = model.find_consumers(source)
        if all(reader.op_type != "MultiThreshold" for reader in readers):
            return model, False
        batch, channels, height, width = model.get_tensor_shape(source)
        last, first = f"{source}_channels_last", f"{source}_channels_first"
        for name, shape in ((last, (batch, height, width, channels)), (first, (batch, channels, height, width))):
            model.set_tensor_shape(name, shape)
            model.set_tensor_datatype(name, model.get_tensor_datatype(source))
        for reader in readers:
            reader.input[list(reader.input).index(source)] = first
        model.graph.node.insert(0, helper.make_node("Transpose", [source], [last], perm=[0, 2, 3, 1]))
        model.graph.node.insert(1, helper.make_node("Transpose", [last], [first], perm=[0, 3, 1, 2]))
        return model, False


def to_hardware(model: ModelWrapper, merged_thresholds: bool) -> ModelWrapper:
    """Layers of FINN's library, those that execute in Python."""
    matrices, thresholds = InferQuantizedMatrixVectorActivation(), InferThresholdingLayer()
    return _apply(
        model,
        *((matrices, thresholds) if merged_thresholds else (thresholds, matrices)),
        InferPool(),
        InferConvInpGen(),
        InferConcatLayer(),
        InferUpsample(),
        InferElementwiseBinaryOperation(),
        InferDuplicateStreamsLayer(),
        absorb.AbsorbConsecutiveTransposes(),
        GiveUniqueNodeNames(),
        InferDataLayouts(),
        InferDataTypes(),
        InferShapes(),
    )


def minimise(model: ModelWrapper) -> ModelWrapper:
    """The narrowest weights, accumulators and thresholds; the order is that of FINN's builder."""
    return _apply(
        model,
        MinimizeWeightBitWidth(),
        MinimizeAccumulatorWidth(),
        InferDataTypes(),
        RoundAndClipThresholds(),
        InferDataTypes(),
        MinimizeWeightBitWidth(),
        InferDataTypes(),
    )


def _apply(model: ModelWrapper, *transformations: Transformation) -> ModelWrapper:
    for transformation in transformations:
        model = model.transform(transformation)
    return model
