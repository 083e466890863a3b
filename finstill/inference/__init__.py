"""Running ONNX graphs: batches, sessions, and the proof that a graph answers as its checkpoint."""
