"""Whether a model's answers change: counted by day or by result, and compared with those when it was measured."""
