"""The Triton passes in Triton's interpreter: a process of its own, because Triton asks for it when it is imported."""

import os
import subprocess
import sys

import pytest
import structlog
import torch

from thinwire.compression import choose_kernel
from thinwire.compression.kernels import BuildError, load_triton_kernel

IN_THE_INTERPRETER = """
import sys
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


if sys.argv[1] == "refusals":
    refusals()
else:
    rows, heads, size, dtype, order = sys.argv[1:6]
    compare(int(rows), int(heads), int(size), getattr(torch, dtype), int(order), sys.argv[6].split(","))
"""


def interpreted(*arguments):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IN_THE_INTERPRETER, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("shape", "dtype", "order", "rungs"),
    [
        ((67, 1, 17), "float32", 2, "raw,bits2,int4,bits1,raw,int8,ternary,bits3"),
        ((3, 1, 130), "float32", 2, "int8,bits3,ternary"),
        ((5, 2, 8), "bfloat16", 1, "int4,bits1,transform-1000,bits2"),
        ((6, 1, 5), "float16", 0, "raw,ternary,transform-500,int8"),
        ((20, 2, 12), "float32", 2, "transform-5000,transform-500,transform-2000,bits2,transform-1000"),
        ((1, 1, 1), "float32", 2, "raw,bits1,transform-3000"),
        ((0, 1, 4), "float32", 2, "raw,bits2,transform-1000"),
    ],
)
def test_the_passes_write_the_bits_of_the_reference(shape, dtype, order, rungs):
    interpreted(*map(str, shape), dtype, str(order), rungs)


def test_what_is_not_finite_is_refused_or_carried_raw_as_by_the_reference():
    interpreted("refusals")


def test_without_a_cuda_device_the_reference_serves_and_the_log_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with structlog.testing.capture_logs() as logs:
        assert choose_kernel("triton").name == "eager"
    assert [(entry["event"], entry["reason"]) for entry in logs] == [
        ("triton_kernel_unavailable", "no CUDA device found")
    ]
    with pytest.raises(BuildError, match="no CUDA device found"):
        load_triton_kernel()
