"""Retrieval metrics written straight from their definitions, one query at a time."""

from __future__ import annotations

import math

Grades = dict[str, int]


def ndcg(ids: list[str], grades: Grades, k: int) -> float:
    def gain(sequence: list[int]) -> float:
        return sum(max(grade, 0) / math.log2(place + 2) for place, grade in enumerate(sequence[:k]))

    best = gain(sorted(grades.values(), reverse=True))
    return gain([grades.get(document, 0) for document in ids]) / best if best else 0.0


def reciprocal_rank(ids: list[str], grades: Grades, k: int) -> float:
    for place, document in enumerate(ids[:k], 1):
        if grades.get(document, 0) > 0:
            return 1 / place
    return 0.0


def recall(ids: list[str], grades: Grades, k: int) -> float:
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ids[:k])) / len(relevant) if relevant else 0.0


def average_precision(ids: list[str], grades: Grades) -> float:
    relevant = {document for document, grade in grades.items() if grade > 0}
    total, hits = 0.0, 0
    for place, document in enumerate(ids, 1):
        if document in relevant:
            hits += 1
            total += hits / place
    return total / len(relevant) if relevant else 0.0


def success(ids: list[str], grades: Grades, k: int) -> float:
    return float(any(grades.get(document, 0) > 0 for document in ids[:k]))
