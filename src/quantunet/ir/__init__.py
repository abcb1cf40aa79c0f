"""The integer half: graph, interpreter, overflow proof, packed file. Nothing here imports torch."""
