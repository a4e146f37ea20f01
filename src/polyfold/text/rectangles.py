"""Documents of rising length in rectangles (documents times the longest), so that padding and cuts cost least."""

import numpy as np

RECTANGLE_TOKENS = 32
"""What one rectangle more costs in attention alone, in tokens, where all else runs over the tokens of all.

Training steps of 3 x 256 and 6 x 384 take the same time with 16 and 32, up to 5 % more with 64, 10 % with 128.
"""


def cheapest_bounds(lengths: np.ndarray, token_budget: int, cut_tokens: int) -> list[int]:
    """Where rectangles begin and end: those with the least padded tokens plus `cut_tokens` for each.

    `lengths` (at least 1) must rise. A rectangle stays within the budget, or is one document. Found by dynamic
    programming over the end of the last rectangle.
    """
    count = len(lengths)
    cost = np.zeros(count + 1, dtype=np.int64)
    begin = np.zeros(count + 1, dtype=np.int64)
    places = np.arange(count + 1)
    for end, width in enumerate(lengths.tolist(), start=1):
        first = max(0, end - max(1, token_budget // width))
        options = cost[first:end] + (end - places[first:end]) * width
        best = int(options.argmin())
        cost[end] = options[best] + cut_tokens
        begin[end] = first + best
    bounds = [count]
    while bounds[-1]:
        bounds.append(int(begin[bounds[-1]]))
    return bounds[::-1]
