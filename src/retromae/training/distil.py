"""Losses against a teacher's scores, by name. The first two are sentence-transformers' own.

kl            T² · KL(softmax(t / T_t) ‖ softmax(s / T_s)), summed over a group, mean over the queries
margin_mse    the mean of ((s⁺ − s⁻) − (t⁺ − t⁻))²
kl_unscaled   as the published codes have it: the mean over all entries of the groups (so that the loss shrinks
              with the group's size), and no T²; for comparison
"""

from __future__ import annotations

from typing import Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss
from sentence_transformers.util import pairwise_cos_sim, pairwise_dot_score
from torch import Tensor

from retromae.training.contrast import EmbeddingLoss

Distillation = Literal["kl", "margin_mse", "kl_unscaled"]


def distillation(
    name: Distillation,
    model: SentenceTransformer,
    *,
    cosine: bool,
    student_temperature: float,
    teacher_temperature: float,
) -> EmbeddingLoss:
    similarity = pairwise_cos_sim if cosine else pairwise_dot_score
    if name == "margin_mse":
        return MarginMSELoss(model, similarity_fct=similarity)
    if name == "kl":
        return DistillKLDivLoss(
            model,
            similarity_fct=similarity,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
    return _UnscaledKL(cosine, student_temperature, teacher_temperature)


class _UnscaledKL:
    def __init__(self, cosine: bool, student_temperature: float, teacher_temperature: float) -> None:
        self.similarity = pairwise_cos_sim if cosine else pairwise_dot_score
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        query, *passages = embeddings
        scores = torch.stack([self.similarity(query, passage) for passage in passages], dim=1)
        student = torch.log_softmax(scores / self.student_temperature, dim=1)
        teacher = torch.log_softmax(labels / self.teacher_temperature, dim=1)
        return (teacher.exp() * (teacher - student)).mean()
