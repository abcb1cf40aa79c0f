"""Code generators and runners of the IntegerGraph. Nothing here imports torch."""
