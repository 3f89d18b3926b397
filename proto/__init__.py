"""Contracts between controller, runtime and clients: thinwire.v1alpha1 and the code generated from it (make proto)."""
