"""In which order the lossless coder takes a digit: the passes over its pixels, and the decisions that give one pixel.

Both travel in the package's tables, so that the runtime needs no copy of them.

Passes: a lattice of every fourth pixel first, then the points between those that are known, until all are. Later pixels
see known ones on all sides. Decisions: a binary tree. Is the pixel 0? Is it one of 252..255, the plateaus of strokes?
If so, which one; otherwise its upper four bits, one after the other. Its lower four bits then come from one fixed table
for each value of the upper ones. A tree assumes no family of distributions: edges of strokes have several modes.
"""

from __future__ import annotations

import numpy as np

from vaert.lossless_tables import Pass, Tree

SIDE = 28
PIXELS = SIDE * SIDE
CELL = 2  # features are shared by cells of 2 x 2 pixels: each pass has its own layers and takes its own part
CELLS = (SIDE // CELL) ** 2
OUTSIDE = PIXELS  # index of a pixel beyond the edge, which is always 0
# Points of each pass: (first row, first column, step).
LATTICES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((0, 0, 4),),
    ((2, 2, 4),),
    ((0, 2, 4), (2, 0, 4)),
    ((1, 1, 2),),
    ((0, 1, 2),),
    ((1, 0, 2),),
)
REACH = 8  # pixels; how far away neighbours are looked for
HIGH, BIN = 252, 16  # the plateau begins at 252; other values are taken in bins of 16


def passes(context: int) -> tuple[Pass, ...]:
    """The passes, each pixel with the `context` nearest neighbours that are known by then."""
    known = np.zeros((4, 4), bool)  # the lattices repeat every 4 pixels
    found = []
    for lattice in LATTICES:
        row, column, _ = lattice[0]
        around = [(i, j) for i in range(-REACH, REACH + 1) for j in range(-REACH, REACH + 1)]
        seen = [(i, j) for i, j in around if known[(row + i) % 4, (column + j) % 4]]
        seen.sort(key=lambda at: (at[0] ** 2 + at[1] ** 2, at))
        points = sorted((r, c) for i, j, step in lattice for r in range(i, SIDE, step) for c in range(j, SIDE, step))
        r, c = np.array(points).T
        near = np.array(seen[:context], int).reshape(-1, 2)
        rows, columns = r[:, None] + near[:, 0], c[:, None] + near[:, 1]
        inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
        neighbours = np.where(inside, rows * SIDE + columns, OUTSIDE)
        cells = r // CELL * (SIDE // CELL) + c // CELL
        found.append(Pass(*(a.astype(np.int32) for a in (r * SIDE + c, cells, neighbours))))
        known[r % 4, c % 4] = True
    return tuple(found)


def tree(levels: int) -> Tree:
    """The decisions for pixels of 256 levels, or of the 2 levels 0 and 255."""
    if levels == 2:
        return Tree(np.array([[-1, -2]], np.int32), np.array([[0, 1], [255, 1]], np.int32))
    leaves = [(0, 1), *((v, 1) for v in range(HIGH, 256))]
    starts = range(0, HIGH, BIN)
    leaves += [(max(1, v), min(HIGH, v + BIN) - max(1, v)) for v in starts]
    middle, bins = 5, len(starts)  # first node of the bins' tree, a heap: node n is followed by 2 n + 1 and 2 n + 2
    children = [[-1, 1], [middle, 2], [3, 4], [-2, -3], [-4, -5]]
    # Places beyond the heap's nodes are the bins, whose leaves come after those of 0 and the plateau.
    places = [middle + b if b < bins - 1 else -1 - (5 + b - (bins - 1)) for b in range(1, 2 * bins - 1)]
    children += [places[n : n + 2] for n in range(0, len(places), 2)]
    return Tree(np.array(children, np.int32), np.array(leaves, np.int32))
