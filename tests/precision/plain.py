"""Casts worked out one value at a time, from the formats' definitions: what the fast ones are compared with."""

import math


def float8(value: float, mantissa: int, smallest: int, largest: float) -> float:
    """The nearest number with ``mantissa`` bits behind the point, down to 2^smallest normally; ties go to even."""
    if value == 0 or math.isnan(value):
        return value
    exponent = max(math.floor(math.log2(abs(value))), smallest)
    step = 2.0 ** (exponent - mantissa)
    return max(-largest, min(largest, round(value / step) * step))  # Python rounds ties to even


def e4m3(value: float) -> float:
    return float8(value, 3, -6, 448.0)


def e5m2(value: float) -> float:
    return float8(value, 2, -14, 57344.0)


def block_cast(rows: list[list[float]], r: int, c: int, *, exponent_up: bool) -> list[list[float]]:
    """e4m3 with a power of two for each r x c block: floor of 448 / amax, or with ``exponent_up`` MXFP8's ceiling."""
    out = [list(row) for row in rows]
    for top in range(0, len(rows), r):
        for left in range(0, len(rows[0]), c):
            places = [
                (i, j) for i in range(top, min(top + r, len(rows))) for j in range(left, min(left + c, len(rows[0])))
            ]
            amax = max(abs(rows[i][j]) for i, j in places)
            if amax == 0:
                continue
            if exponent_up:
                scale = 2.0 ** -math.ceil(math.log2(amax / 448.0))
            else:
                scale = 2.0 ** math.floor(math.log2(448.0 / amax))
            for i, j in places:
                out[i][j] = e4m3(rows[i][j] * scale) / scale
    return out
