"""Training of the in-box text-to-emoji pipeline: data, autoencoder, transformer, export."""
