"""The U-Net, float or quantized."""
