"""Send a slowly changing tensor through the residual codec: thinwire.compression in any torch program."""

import torch

from thinwire.compression import (
    BITS2,
    RAW,
    Exchange,
    Role,
    StreamDecoder,
    StreamEncoder,
    StreamId,
    choose_kernel,
    true_millibits,
)

ROWS, CHANNELS, STEPS = 1024, 512, 12
stream = StreamId(Exchange.RING, layer=0, role=Role.HIDDEN, branch=0, source=0)
kernel = choose_kernel()
sender = StreamEncoder(stream, ROWS, CHANNELS, torch.float32, kernel=kernel)
receiver = StreamDecoder(stream, ROWS, CHANNELS, torch.float32, kernel=kernel)

start, end = torch.randn(2, ROWS, CHANNELS, generator=torch.Generator().manual_seed(0))
for step in range(STEPS):
    angle = torch.tensor(1.5 * step / STEPS)
    x = torch.cos(angle) * start + torch.sin(angle) * end
    rung, key_frame = (RAW, True) if step == 0 else (BITS2, False)
    sent = sender.encode(x, rung=rung, epoch=0, step=step, key_frame=key_frame)
    # sent.frame is what travels: a uint8 tensor whose size both ends know beforehand.
    received = receiver.decode(sent.frame, rung=rung, epoch=0, step=step, key_frame=key_frame)
    assert sender.checksum() == receiver.checksum()
    error = float((received - x).norm() / x.norm())
    bits = true_millibits(rung, ROWS, CHANNELS, x.dtype) / 1000
    print(f"step {step:2}  {rung.name:6} {bits:6.3f} bits a value  {sent.frame.numel():9,} bytes  error {error:.2%}")
