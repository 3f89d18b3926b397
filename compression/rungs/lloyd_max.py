"""Lloyd and Max's quantisers for the unit normal distribution, 1 to 7 bits.

Lloyd, "Least squares quantization in PCM", 1982; Max, "Quantizing for minimum distortion", 1960. Levels are symmetric:
only the positive ones are listed, rounded to 7 decimals. A code counts the thresholds that a value reaches; these are
the midpoints of neighbouring levels.
"""

from itertools import pairwise

MAX_BITS = 7

POSITIVE_LEVELS: tuple[tuple[float, ...], ...] = (
    (),
    (0.7978846,),
    (
        0.4527800,
        1.5104176,
    ),
    (
        0.2450942,
        0.7560053,
        1.3439093,
        2.1519457,
    ),
    (
        0.1283950,
        0.3880483,
        0.6567591,
        0.9423405,
        1.2562312,
        1.6180464,
        2.0690172,
        2.7325896,
    ),
    (
        0.0658897,
        0.1980518,
        0.3313783,
        0.4666995,
        0.6049336,
        0.7471357,
        0.8945651,
        1.0487833,
        1.2118044,
        1.3863403,
        1.5762281,
        1.7872332,
        2.0287284,
        2.3177394,
        2.6911196,
        3.2607325,
    ),
    (
        0.0334095,
        0.1002783,
        0.1672969,
        0.2345670,
        0.3021928,
        0.3702826,
        0.4389497,
        0.5083138,
        0.5785030,
        0.6496556,
        0.7219219,
        0.7954677,
        0.8704766,
        0.9471549,
        1.0257363,
        1.1064882,
        1.1897201,
        1.2757945,
        1.3651410,
        1.4582764,
        1.5558312,
        1.6585889,
        1.7675419,
        1.8839772,
        2.0096110,
        2.1468102,
        2.2989812,
        2.4713048,
        2.6722738,
        2.9174068,
        3.2404371,
        3.7441013,
    ),
    (
        0.0168282,
        0.0504909,
        0.0841726,
        0.1178863,
        0.1516446,
        0.1854607,
        0.2193476,
        0.2533187,
        0.2873876,
        0.3215679,
        0.3558740,
        0.3903203,
        0.4249216,
        0.4596934,
        0.4946515,
        0.5298122,
        0.5651927,
        0.6008105,
        0.6366843,
        0.6728333,
        0.7092778,
        0.7460391,
        0.7831396,
        0.8206030,
        0.8584542,
        0.8967200,
        0.9354285,
        0.9746100,
        1.0142967,
        1.0545232,
        1.0953267,
        1.1367474,
        1.1788286,
        1.2216174,
        1.2651651,
        1.3095276,
        1.3547663,
        1.4009486,
        1.4481489,
        1.4964500,
        1.5459437,
        1.5967331,
        1.6489339,
        1.7026770,
        1.7581114,
        1.8154077,
        1.8747625,
        1.9364046,
        2.0006018,
        2.0676715,
        2.1379934,
        2.2120275,
        2.2903392,
        2.3736343,
        2.4628114,
        2.5590405,
        2.6638865,
        2.7795143,
        2.9090471,
        3.0572462,
        3.2319332,
        3.4474303,
        3.7349366,
        4.1896942,
    ),
)

# What is left of a unit of energy after b bits.
DISTORTIONS = (1.0, 0.3633802276, 0.1174818478, 0.0345477608, 0.0095010080, 0.0025046684, 0.0006442397, 0.0001634782)


def levels(bits: int) -> tuple[float, ...]:
    """Return all 2 ** bits levels in ascending order; one level, 0, for no bits."""
    if bits == 0:
        return (0.0,)
    positive = POSITIVE_LEVELS[bits]
    return (*(-level for level in reversed(positive)), *positive)


def thresholds(bits: int) -> tuple[float, ...]:
    """Return the 2 ** bits - 1 midpoints between neighbouring levels, ascending."""
    table = levels(bits)
    return tuple((low + high) / 2 for low, high in pairwise(table))
