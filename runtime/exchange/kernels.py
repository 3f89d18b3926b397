"""Which kernel codes: all ranks must compute the same bits, or their bases part."""

import structlog
import torch.distributed as dist

from thinwire.compression import Kernel, choose_kernel
from thinwire.runtime.parallel import World

log = structlog.get_logger(__name__)


def agree_on_kernel(world: World) -> Kernel:
    """Return a kernel that computes the same bits on every rank. Collective.

    Raises:
        RuntimeError: even the eager kernels differ, so the ranks' torch versions or processors do.
    """
    for prefer in ("native" if world.device.type == "cpu" else "triton", "eager"):
        kernel = choose_kernel(prefer)
        fingerprints: list[str] = [""] * world.size
        dist.all_gather_object(fingerprints, kernel.fingerprint, group=world.control)
        if len(set(fingerprints)) == 1:
            return kernel
        log.warning("exchange.kernels_differ", kernel=kernel.name, fingerprints=fingerprints)
    raise RuntimeError(
        f"expected the codec to compute the same bits on every rank, got fingerprints {fingerprints}: "
        "run the same torch on the same kind of processor, or set compression mode Off"
    )
