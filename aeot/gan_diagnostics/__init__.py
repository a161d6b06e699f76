"""What the theory of adversarial models and translators predicts, made measurable."""
