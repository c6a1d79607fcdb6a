"""The objectives written from the equations: one passage, one position, one word at a time.

Masks come from the integer reference of the draws; encoder states and vocabulary logits from transformers' own
masked-LM model, each passage alone and unpadded; the decoder from `reference.decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference import decoding, draws, vocabulary
from retromae.core.draws import Stream


@dataclass
class Passage:
    ids: list[int]  # with [CLS] and [SEP], no padding
    row: int
    epoch: int


@dataclass
class Setting:
    objective: Any  # the module under test: only its weights, seed and vocabulary are used
    starts: list[bool]
    ordinary: list[bool]
    mask_id: int

    def words(self, ids: list[int]) -> list[int]:
        words, number = [], -1
        for i, token in enumerate(ids):
            if not self.ordinary[token]:
                words.append(-1)
                continue
            if self.starts[token] or words[i - 1] == -1:
                number += 1
            words.append(number)
        return words

    def mask(self, passage: Passage, share: float, decoder: bool = False) -> tuple[list[int], list[int]]:
        """(masked ids, labelled positions): whole words; 80 % [MASK], 10 % random, 10 % unchanged."""
        names = ("WORDS", "COUNT", "KIND", "TOKEN")
        side = "DECODER" if decoder else "ENCODER"
        seed = self.objective.seed
        which, count, kind, token = (
            draws.row_key(seed, int(Stream[f"{side}_{name}"]), passage.epoch, passage.row) for name in names
        )
        length = len(passage.ids)
        order = [draws.at_position(which, i) for i in range(length)]
        chosen = draws.choose_words(self.words(passage.ids), share, order, draws.at_position(count, 0))
        ordinary = [i for i, flag in enumerate(self.ordinary) if flag]
        masked = list(passage.ids)
        for i in range(length):
            if chosen[i]:
                draw = draws.at_position(kind, i)
                if draws.below(draw, 0.8):
                    masked[i] = self.mask_id
                elif draws.below(draw, 0.9):
                    masked[i] = ordinary[draws.signed(draws.at_position(token, i)) % len(ordinary)]
        return masked, [i for i in range(length) if chosen[i]]

    def states(self, ids: list[int]) -> Tensor:
        """(L, d) last hidden states of one passage."""
        row = torch.tensor([ids])
        return self.objective.backbone.base(
            input_ids=row, attention_mask=torch.ones_like(row)
        ).last_hidden_state[0]

    def loss_at(self, state: Tensor, target: int) -> Tensor:
        backbone = self.objective.backbone
        transformed = backbone.head_transform(state[None])[0]
        return vocabulary.cross_entropy(transformed, backbone.head_weight, backbone.head_bias, target)

    def visible(self, passage: Passage, share: float) -> Tensor:
        """Eq. 7."""
        length = len(passage.ids)
        row = draws.row_key(self.objective.seed, int(Stream.DECODER_VISIBLE), passage.epoch, passage.row)
        seen = torch.zeros(length, length, dtype=torch.bool)
        for i in range(length):
            for j in range(length):
                if j == 0:
                    seen[i, j] = i != 0
                elif j != i:
                    seen[i, j] = draws.below(draws.at_pair(row, i, j), 1.0 - share)
        return seen

    def decode(self, sentence: Tensor, ids: list[int], visible: Tensor | None) -> Tensor:
        backbone, decoder = self.objective.backbone, self.objective.decoder
        e = backbone.token_embeddings(torch.tensor(ids))
        p = backbone.position_embeddings(len(ids))
        if p is None:
            p = decoder.positions.weight[: len(ids)]
        if visible is None:
            return decoding.basic(decoder, sentence, e, p, torch.ones(len(ids)))
        norm = (
            backbone.embedding_norm if self.objective.settings.decoder_embedding_norm == "context" else None
        )
        return decoding.enhanced(decoder, sentence, e, p, visible, norm)


def mlm(setting: Setting, passages: list[Passage]) -> Tensor:
    losses = []
    for passage in passages:
        masked, labelled = setting.mask(passage, setting.objective.settings.encoder_mlm_probability)
        states = setting.states(masked)
        losses += [setting.loss_at(states[i], passage.ids[i]) for i in labelled]
    return torch.stack(losses).mean()


def retromae(setting: Setting, passages: list[Passage]) -> Tensor:
    config = setting.objective.settings
    encoder, decoder = [], []
    for passage in passages:
        masked, labelled = setting.mask(passage, config.encoder_mlm_probability)
        states = setting.states(masked)
        encoder += [setting.loss_at(states[i], passage.ids[i]) for i in labelled]
        if config.decoder == "enhanced":
            seen = setting.visible(passage, config.decoder_mlm_probability)
            decoded = setting.decode(states[0], passage.ids, seen)
            targets = [i for i, word in enumerate(setting.words(passage.ids)) if word >= 0]
        else:
            ids, targets = setting.mask(passage, config.decoder_mlm_probability, decoder=True)
            decoded = setting.decode(states[0], ids, None)
        row = draws.row_key(setting.objective.seed, int(Stream.DECODER_ASKED), passage.epoch, passage.row)
        targets = [i for i in targets if draws.below(draws.at_position(row, i), config.decoded_share)]
        decoder += [setting.loss_at(decoded[i], passage.ids[i]) for i in targets]
    return torch.stack(encoder).mean() + torch.stack(decoder).mean()


samplemae = retromae  # with fewer places


def dupmae(setting: Setting, passages: list[Passage]) -> Tensor:
    backbone, config = setting.objective.backbone, setting.objective.settings
    bags = []
    for passage in passages:
        masked, _ = setting.mask(passage, config.encoder_mlm_probability)
        states = backbone.head_transform(setting.states(masked))
        counted = torch.tensor([word >= 0 for word in setting.words(passage.ids)])
        pooled = vocabulary.max_pooled(states, backbone.head_weight, backbone.head_bias, counted)
        tokens = [token for token, flag in zip(passage.ids, counted.tolist()) if flag]
        bags.append(vocabulary.bag_of_words(pooled, tokens, per_token=config.bow_per_token))
    return retromae(setting, passages) + config.bow_weight * torch.stack(bags).mean()
