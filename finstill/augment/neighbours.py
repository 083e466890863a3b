"""The word pieces that lie nearest in the teacher's embedding space."""

from __future__ import annotations

import numpy as np

from finstill.augment.vocabulary import Vocabulary

BLOCK = 1024
SPARE = 8
"""Candidates beyond those wanted that are measured again in double precision."""


def nearest_pieces(embeddings: np.ndarray, pieces: np.ndarray, vocabulary: Vocabulary, count: int) -> np.ndarray:
    """Return the `count` pieces nearest to each of `pieces` by cosine, nearest first.

    A piece is replaced by one of its own place in a word, so that words stay words. The distances that decide are in
    double precision: rounding, which differs between machines and numbers of threads, then changes no neighbour.

    Args:
        embeddings: the teacher's word embeddings, float32, (vocabulary, width).
        pieces: int64, (pieces,), replaceable ones.

    Returns:
        int64, (pieces, count); where there are fewer others of a piece's place, they are repeated.
    """
    import torch

    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
    nearest = np.empty((len(pieces), count), np.int64)
    for marker in np.unique(vocabulary.marker[pieces]):
        group = np.flatnonzero(vocabulary.replaceable & (vocabulary.marker == marker))
        others = torch.from_numpy(directions[group]).T
        chosen = np.flatnonzero(vocabulary.marker[pieces] == marker)
        for rows in np.split(chosen, np.arange(BLOCK, len(chosen), BLOCK)):
            cosines = torch.from_numpy(directions[pieces[rows]]) @ others
            # One more than wanted: the piece itself is the nearest of all.
            kept = min(count + SPARE + 1, len(group))
            candidates = group[cosines.topk(kept, dim=1, sorted=False).indices.numpy()]
            nearest[rows] = _exactly_nearest(directions, pieces[rows], candidates, count)
    return nearest


def _exactly_nearest(directions: np.ndarray, pieces: np.ndarray, candidates: np.ndarray, count: int) -> np.ndarray:
    candidates = np.sort(candidates, axis=1)
    own, theirs = directions[pieces].astype(np.float64), directions[candidates].astype(np.float64)
    distance = -np.einsum("pw,pcw->pc", own, theirs)
    distance[candidates == pieces[:, None]] = np.inf
    # Stable: of pieces with equal embeddings the lower id goes first.
    order = np.argsort(distance, axis=1, kind="stable")
    others = max(candidates.shape[1] - 1, 1)
    return np.take_along_axis(candidates, order[:, np.arange(count) % others], axis=1)
