"""A stand-in for `kubectl port-forward` where there is no node to forward to: a plain line from port to port.

`write(folder, port)` makes a program `kubectl` that takes the same arguments, notes them in `folder`/asked and forwards
to `port` of 127.0.0.1. What runs through the line is real: TLS, tokens, the API server's answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python}
import asyncio, pathlib, re, sys
here = pathlib.Path(__file__).parent
(here / "asked").write_text("\\n".join(sys.argv[1:]))
assert "port-forward" in sys.argv and re.fullmatch(r":\\d+", sys.argv[-1]), sys.argv

async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def forward(reader, writer):
    target_reader, target_writer = await asyncio.open_connection("127.0.0.1", {port})
    await asyncio.gather(pump(reader, target_writer), pump(target_reader, writer), return_exceptions=True)

async def main():
    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    print("Forwarding from 127.0.0.1:%d -> 8443" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def write(folder: Path, port: int) -> None:
    program = folder / "kubectl"
    program.write_text(PROGRAM.format(python=sys.executable, port=port))
    program.chmod(0o755)


def write_refusing(folder: Path, sentence: str) -> None:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\necho '{sentence}' >&2\nexit 1\n")
    program.chmod(0o755)
