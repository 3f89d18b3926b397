"""Whether this machine has a GPU that torch can use: the question that most shims ask."""

import torch


def absent() -> bool:
    """Return True on a machine without a usable GPU."""
    return not torch.cuda.is_available()
