"""quantunet: learn how many bits every layer of a U-Net needs, and deploy it as integers."""

__version__ = "0.1.0"
