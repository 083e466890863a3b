"""The cache of a teacher's logits."""
