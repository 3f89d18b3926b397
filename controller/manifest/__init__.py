"""The DiffusionJob manifest: read, defaulted, validated by the CRD, checked against this machine, made a RunSpec."""
