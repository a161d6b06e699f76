"""What the theory predicts, made measurable."""
