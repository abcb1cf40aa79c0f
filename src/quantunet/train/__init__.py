"""Configuration, run folder, optimizer groups, and the loop."""
