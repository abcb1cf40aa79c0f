"""hls4ml: a Vitis project, and the layers that it lacks."""
