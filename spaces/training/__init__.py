"""Training: recovery, distillation, zeros that come gradually, training with rounded weights."""
