"""The teacher: a checkpoint, resolved or fine-tuned, and the ONNX graph that is proved equal to it."""
