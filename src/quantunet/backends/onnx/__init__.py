"""ONNX, QONNX and the QONNX that FINN reads."""
