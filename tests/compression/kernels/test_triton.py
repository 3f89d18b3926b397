"""The Triton passes in Triton's interpreter: a process of its own, because Triton asks for it when it is imported."""

import json
import os
import subprocess
import sys

import pytest
import structlog
import torch

from thinwire.compression import choose_kernel
from thinwire.compression.kernels import BuildError, load_triton_kernel

pytestmark = pytest.mark.timeout(900)  # the interpreter takes a millisecond for what a device does in none

IN_THE_INTERPRETER = """
import json
import sys
import traceback
import torch
from tests.compression.cases import drifting, kernel_named, same_bits, STREAM
from tests.compression.transform.test_transform_rungs import calibrated
from thinwire.compression import (
    CALIBRATED_LADDER, LADDER, PayloadError, NonFiniteError, RAW, StreamDecoder, StreamEncoder, rung_named
)
from thinwire.compression.frames import HEADER_BYTES
from thinwire.compression.kernels.triton import TritonKernel

torch.set_num_threads(1)
triton, eager = TritonKernel(torch.device("cpu")), kernel_named("eager")


def ends(rows, heads, size, dtype, order):
    basis = calibrated(rows, heads, size)
    shape = (STREAM, rows, heads * size, dtype)
    return [
        end(*shape, kernel=kernel, order=order, basis=basis)
        for kernel in (triton, eager)
        for end in (StreamEncoder, StreamDecoder)
    ]


def compare(rows, heads, size, dtype, order, names):
    encoder, decoder, reference, listener = ends(rows, heads, size, dtype, order)
    for step, (name, x) in enumerate(zip(names, drifting(rows, heads * size, dtype, len(names)), strict=True)):
        rung = rung_named(name)
        said = {"rung": rung, "epoch": 0, "step": step, "key_frame": step == 0}
        fast, slow = encoder.encode(x, **said), reference.encode(x, **said)
        assert torch.equal(fast.frame, slow.frame), (name, "frame")
        assert abs(fast.relative_error - slow.relative_error) <= 1e-4 * slow.relative_error + 1e-7, (name, "error")
        assert same_bits(decoder.decode(slow.frame, **said), listener.decode(fast.frame, **said)), (name, "decoded")
        assert len({end.checksum() for end in (encoder, decoder, reference, listener)}) == 1, (name, "state")
        assert same_bits(decoder.prediction(), listener.prediction()), (name, "prediction")


def refusals():
    encoder, decoder, _, _ = ends(5, 1, 4, torch.float32, 2)
    x = torch.ones(5, 4)
    before = encoder.checksum()
    for value in (float("nan"), float("inf"), 2.0**62):
        x[2, 1] = value
        for name in ("int8", "bits2", "transform-1000"):
            try:
                encoder.encode(x, rung=rung_named(name), epoch=0, step=0)
            except NonFiniteError:
                assert encoder.checksum() == before
            else:
                raise AssertionError(f"{name} carried {value}")
    x[2, 1] = float("nan")
    sent = encoder.encode(x, rung=RAW, epoch=0, step=0, key_frame=True)
    assert same_bits(decoder.decode(sent.frame, rung=RAW, epoch=0, step=0, key_frame=True), x)
    assert encoder.checksum() == decoder.checksum()


for name, case in json.loads(sys.argv[1]).items():
    try:
        compare(*case[:3], getattr(torch, case[3]), case[4], case[5].split(",")) if case else refusals()
    except Exception:
        print(name, traceback.format_exc(), file=sys.stderr)
    else:
        print(name)
"""

CASES = {
    "two blocks of rows": (67, 1, 17, "float32", 2, "raw,bits2,int4,bits1,raw,int8,ternary,bits3"),
    "two tiles of channels": (3, 1, 130, "float32", 2, "int8,bits3,ternary"),
    "bfloat16 and order 1": (5, 2, 8, "bfloat16", 1, "int4,bits1,transform-1000,bits2"),
    "float16 and order 0": (6, 1, 5, "float16", 0, "raw,ternary,transform-500,int8"),
    "transform": (20, 2, 12, "float32", 2, "transform-5000,transform-500,transform-2000,bits2,transform-1000"),
    "one value": (1, 1, 1, "float32", 2, "raw,bits1,transform-3000"),
    "empty": (0, 1, 4, "float32", 2, "raw,bits2,transform-1000"),
    "not finite: refused, or carried raw": (),
}


@pytest.fixture(scope="module")
def interpreted():
    """Names of the cases that held, and what the others said."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IN_THE_INTERPRETER, json.dumps(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850, check=False)
    return done.stdout.splitlines(), done.stderr[-5000:]


@pytest.mark.parametrize("name", CASES)
def test_the_passes_write_the_bits_of_the_reference(interpreted, name):
    held, said = interpreted
    assert name in held, said


def test_without_a_cuda_device_the_reference_serves_and_the_log_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with structlog.testing.capture_logs() as logs:
        assert choose_kernel("triton").name == "eager"
    assert [(entry["event"], entry["reason"]) for entry in logs] == [
        ("triton_kernel_unavailable", "no CUDA device found")
    ]
    with pytest.raises(BuildError, match="no CUDA device found"):
        load_triton_kernel()
