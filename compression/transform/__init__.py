"""Transform coding of residuals: a basis per head, bits where the energy is, scales as changes from the last step."""
