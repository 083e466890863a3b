"""Learning: rows, losses, the loop, a student's distillation and a teacher's fine-tuning."""
