"""Transform coding of residuals: bits where the energy is, in a basis per block of channels; scales as changes."""
