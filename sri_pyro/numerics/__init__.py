"""The floor that inference and evaluation stand on: pure functions of tensors."""
