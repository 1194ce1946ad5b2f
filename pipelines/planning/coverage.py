"""Choose a few rows that show as many values of as many columns as possible."""

from collections.abc import Iterator

import numpy as np

from nightpress.pipelines.manifest.numbers import Floats, Ints


def covering_rows(codes: Ints, places: Ints, num_images: Ints, count: int) -> Iterator[int]:
    """Choose rows one after the other, each for the values that were shown least so far.

    Greedy: a row counts, for each column, 1 / (times its value was shown + 1), divided by the
    number of the column's values, so that a column with few values is covered first. Among equals
    the row farthest from those already chosen wins, then the first. A row is chosen again, for its
    next image, once every row was chosen as often.

    Args:
        codes: (n, columns) each value's number within its column, from 0.
        places: (n,) the rows' numbers in the manifest, ascending.
        num_images: (n,) how often each row can be chosen, at least once.
        count: how many choices to make.

    Yields:
        Indices of rows, `count` or as many as there are images.
    """
    num_values = codes.max(axis=0, initial=0) + 1
    starts = np.cumsum(num_values) - num_values
    cells = codes + starts
    weights = np.repeat(1 / num_values, num_values)
    shown = np.zeros(len(weights), np.int64)
    used = np.zeros(len(places), np.int64)
    distances: Floats = np.full(len(places), np.inf)
    for _ in range(min(count, int(num_images.sum()))):
        gains = (weights / (shown + 1))[cells].sum(axis=1)
        left = used < num_images
        free = left & (used == used[left].min())
        best = free & (gains >= gains[free].max() - 1e-9)
        chosen = int(np.argmax(np.where(best, distances, -1)))
        yield chosen
        used[chosen] += 1
        shown[cells[chosen]] += 1
        distances = np.minimum(distances, np.abs(places - places[chosen]))
