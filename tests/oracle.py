"""The method of design in plain float64 NumPy, slow and without faiss: what must come out."""

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


def probe(query, clustering, nprobe, nprobe_outer):
    """Inner clusters that multi-level search scans for one query, nearest first."""
    outer = np.argsort(squared(query[None], clustering.outer)[0], kind="stable")[:nprobe_outer]
    members = np.flatnonzero(np.isin(clustering.inner_to_outer, outer))
    distances = squared(query[None], clustering.inner[members])[0]
    return members[np.argsort(distances, kind="stable")[:nprobe]]


def adc(query, index, cluster):
    """Positions and estimated squared distances of all codes in one list."""
    positions, codes = index.list_content(cluster)
    quantizer = index.quantizer(cluster)
    residual = (query.astype(np.float64) - index.clustering.inner[cluster]).reshape(quantizer.m, -1)
    numbers = quantizer.unpack(codes)
    total = np.zeros(len(positions))
    for j in range(quantizer.m):
        centroids = quantizer.codebooks[j].astype(np.float64)
        total += ((residual[j] - centroids[numbers[:, j]]) ** 2).sum(axis=1)
    return positions, total


def search(query, index, k, nprobe, nprobe_outer):
    """Estimated squared distances of the best k codes, ascending."""
    found = [
        adc(query, index, c)
        for c in probe(query, index.clustering, nprobe, nprobe_outer)
        if len(index.list_content(c)[0])
    ]
    if not found:
        return np.empty(0, np.int64), np.empty(0)
    positions = np.concatenate([p for p, _ in found])
    distances = np.concatenate([d for _, d in found])
    best = np.lexsort((positions, distances))[:k]
    return positions[best], distances[best]
