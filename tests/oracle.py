"""The method of design in plain float64 NumPy, slow and without faiss: what must come out.

Only arrays go in: centroids of both levels, codebooks, base; ``read`` takes them from an index.
"""

from dataclasses import dataclass

import numpy as np


def squared(a, b):
    """Squared L2 distances of the rows of a and b, (len(a), len(b)) float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)


def exact_neighbors(base, queries, k):
    """Ids of the k nearest, ties by id, and plain distances."""
    distances = squared(queries, base)
    ids = np.lexsort((np.broadcast_to(np.arange(len(base)), distances.shape), distances))[:, :k]
    return ids, np.sqrt(np.take_along_axis(distances, ids, 1))


def pack(numbers, nbits):
    """Codes (n, bytes) of numbers (n, m): their bits in a row, lowest first, in whole bytes."""
    bits = numbers[:, :, None] >> np.arange(nbits) & 1
    flat = bits.reshape(len(numbers), numbers.shape[1] * nbits)
    return np.packbits(flat.astype(np.uint8), axis=1, bitorder="little")


def unpack(codes, m, nbits):
    """Numbers (n, m) inside codes (n, bytes)."""
    bits = np.unpackbits(codes, axis=1, bitorder="little")[:, : m * nbits]
    return (bits.reshape(len(codes), m, nbits).astype(np.int64) << np.arange(nbits)).sum(axis=2)


def probe(query, clustering, nprobe, nprobe_outer):
    """Inner clusters that multi-level search scans for one query, nearest first."""
    outer = np.argsort(squared(query[None], clustering.outer)[0], kind="stable")[:nprobe_outer]
    members = np.flatnonzero(np.isin(clustering.inner_to_outer, outer))
    distances = squared(query[None], clustering.inner[members])[0]
    return members[np.argsort(distances, kind="stable")[:nprobe]]


@dataclass
class Method:
    """Everything that is stored, and every step of a search by its definition.

    inner (K, d), outer (L, d); codebooks: (m, 2**nbits, d/m) for each inner cluster; base (n, d);
    shared: one codebook, its tables computed in advance. What is not given follows from these:
    inner_to_outer (K,), assignment (n,), numbers (n, m).
    """

    inner: np.ndarray
    outer: np.ndarray
    codebooks: list
    base: np.ndarray | None
    shared: bool = False
    inner_to_outer: np.ndarray | None = None
    assignment: np.ndarray | None = None
    numbers: np.ndarray | None = None

    def __post_init__(self):
        self.m, self.ksub, self.dsub = self.codebooks[0].shape
        if self.inner_to_outer is None:
            self.inner_to_outer = squared(self.inner, self.outer).argmin(axis=1)
        if self.assignment is None:
            self.assignment = squared(self.base, self.inner).argmin(axis=1)
        if self.numbers is None:
            self.numbers = self.encode(self.base, self.assignment)

    def residuals(self, x, clusters):
        """(n, m, d/m): what is left of each row of x without its cluster's centroid, cut up."""
        left = np.asarray(x, np.float64) - self.inner[clusters]
        return left.reshape(len(left), self.m, self.dsub)

    def errors(self, x, clusters, numbers):
        """Squared error (n, m) of each sub-vector under the numbers (n, m)."""
        gap = self.residuals(x, clusters)
        for c in np.unique(clusters):
            rows = np.flatnonzero(clusters == c)
            gap[rows] -= self.codebooks[c][np.arange(self.m), numbers[rows]]
        return (gap**2).sum(axis=2)

    def encode(self, x, clusters):
        """Numbers (n, m) of the nearest centroid in each sub-space of the cluster's codebook."""
        numbers = np.empty((len(x), self.m), np.int64)
        left = self.residuals(x, clusters)
        for c in np.unique(clusters):
            rows = np.flatnonzero(clusters == c)
            for j in range(self.m):
                numbers[rows, j] = squared(left[rows, j], self.codebooks[c][j]).argmin(axis=1)
        return numbers

    def adc(self, query, lists):
        """Positions in the lists, and squared distances of the query to their decoded codes."""
        positions = np.flatnonzero(np.isin(self.assignment, lists))
        clusters = self.assignment[positions]
        same = np.broadcast_to(query, (len(positions), len(query)))
        return positions, self.errors(same, clusters, self.numbers[positions]).sum(axis=1)

    def search(self, query, k, nprobe, nprobe_outer, candidates=None):
        """Positions and distances of the best k: estimates, or exact for so many candidates."""
        lists = probe(query, self, nprobe, nprobe_outer)
        positions, distances = self.adc(query, lists)
        if candidates is not None:
            positions = positions[np.lexsort((positions, distances))[:candidates]]
            distances = squared(query[None], self.base[positions])[0]
        best = np.lexsort((positions, distances))[:k]
        return positions[best], distances[best]

    def probe_cost(self, query, nprobe_outer):
        """Distances to centroids: to none of the outer ones where all are probed."""
        outer = 0 if nprobe_outer == len(self.outer) else len(self.outer)
        inner = len(probe(query, self, len(self.inner), nprobe_outer))
        return {"outer": outer, "inner": inner}

    def scan_cost(self, lists, candidates=0):
        """Distances that scanning lists takes: tables, codes, and as many re-ranked at most."""
        sizes = np.bincount(self.assignment, minlength=len(self.inner))[lists]
        tables = (sizes > 0).any() if self.shared else (sizes > 0).sum()
        codes = sizes.sum()
        return {
            "tables": tables * self.ksub,
            "codes": codes,
            "rerank": min(codes, candidates),
        }


def read(index, base=None):
    """The arrays of an index, as a Method: codes are unpacked here, not by it."""
    clustering, assignment = index.clustering, np.empty(index.ntotal, np.int64)
    numbers = np.empty((index.ntotal, index.m), np.int64)
    for c in range(index.n_inner):
        positions, codes = index.list_content(c)
        assignment[positions] = c
        numbers[positions] = unpack(codes, index.m, index.nbits)
    return Method(
        clustering.inner,
        clustering.outer,
        [index.quantizer(c).codebooks for c in range(index.n_inner)],
        base,
        index.codebooks == "shared",
        clustering.inner_to_outer,
        assignment,
        numbers,
    )


def search(query, index, k, nprobe, nprobe_outer):
    """Positions and estimated squared distances of the best k codes of an index, ascending."""
    return read(index).search(query, k, nprobe, nprobe_outer)
