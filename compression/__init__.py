"""The residual codec: rungs, predictor, feedback, frames, allocator. Usable on its own by any torch program.

Open a StreamEncoder and a StreamDecoder with the same arguments, send what `encode` returns and hand it to `decode`:
both ends then hold the same base, and only coded residuals travel. docs/codec.md has the idea and an example,
docs/wire-format.md the bytes.
"""

from thinwire.compression.allocation import (
    Demand,
    Place,
    allocate,
    mean_millibits,
    predicted_error,
    spread,
    uniform_rung,
)
from thinwire.compression.calibration import CALIBRATION_FILE, COST_MILLIBITS, BasisMeter, Calibration
from thinwire.compression.endpoints import Encoded, StreamDecoder, StreamEncoder
from thinwire.compression.errors import (
    CalibrationError,
    ChecksumError,
    CodecError,
    FrameError,
    HeaderMismatch,
    LengthError,
    MagicError,
    NonFiniteError,
    PayloadError,
    RungError,
    TensorError,
    VersionError,
)
from thinwire.compression.frames import HEADER_BYTES
from thinwire.compression.kernels import choose_kernel
from thinwire.compression.kernels.base import Kernel
from thinwire.compression.ladder import (
    BITS1,
    BITS2,
    BITS3,
    CALIBRATED_LADDER,
    FP8,
    INT4,
    INT8,
    LADDER,
    LOW_RANK_8,
    LOW_RANK_8_INT4,
    LOW_RANK_16,
    LOW_RANK_16_INT4,
    LOW_RANK_32,
    LOW_RANK_32_INT4,
    RAW,
    RUNGS,
    SPARSE_1_OF_8,
    SPARSE_2_OF_4,
    TERNARY,
    frame_bytes,
    rung_named,
    true_millibits,
)
from thinwire.compression.measurement import RungCost, measure_ladder
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.transform import TransformRung
from thinwire.compression.streams import BaseFormat, Exchange, Role, StreamId
from thinwire.compression.transform.basis import Basis

__all__ = [
    "BITS1",
    "BITS2",
    "BITS3",
    "CALIBRATED_LADDER",
    "CALIBRATION_FILE",
    "COST_MILLIBITS",
    "FP8",
    "HEADER_BYTES",
    "INT4",
    "INT8",
    "LADDER",
    "LOW_RANK_8",
    "LOW_RANK_8_INT4",
    "LOW_RANK_16",
    "LOW_RANK_16_INT4",
    "LOW_RANK_32",
    "LOW_RANK_32_INT4",
    "RAW",
    "RUNGS",
    "SPARSE_1_OF_8",
    "SPARSE_2_OF_4",
    "TERNARY",
    "BaseFormat",
    "Basis",
    "BasisMeter",
    "Calibration",
    "CalibrationError",
    "ChecksumError",
    "CodecError",
    "Demand",
    "Encoded",
    "Exchange",
    "FrameError",
    "HeaderMismatch",
    "Kernel",
    "LengthError",
    "MagicError",
    "NonFiniteError",
    "PayloadError",
    "Place",
    "Role",
    "Rung",
    "RungCost",
    "RungError",
    "StreamDecoder",
    "StreamEncoder",
    "StreamId",
    "TensorError",
    "TransformRung",
    "VersionError",
    "allocate",
    "choose_kernel",
    "frame_bytes",
    "mean_millibits",
    "measure_ladder",
    "predicted_error",
    "rung_named",
    "spread",
    "true_millibits",
    "uniform_rung",
]
