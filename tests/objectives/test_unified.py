"""Stage 2: contrastive learning and an objective from one encoder pass, in chunks, with and without GradCache."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, AutoModelForMaskedLM

from reference import tsdae
from reference.objectives import Passage, Setting
from retromae import objectives
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import open_checkpoint
from retromae.objectives import Objective, available, load
from retromae.objectives.one_pass import OnePass
from retromae.objectives.unified import Reconstruction, UnifiedEncoder, reconstruction_loss, total_counts
from tiny import SENTENCES

Folder = Callable[[str], Path]
RIDERS: list[tuple[str, dict[str, Any]]] = [
    ("mlm", {}),
    ("retromae", {}),
    ("retromae", {"decoder": "basic", "decoder_layers": 2}),
    ("retromae", {"hide_schedule": 0.8}),
    ("samplemae", {}),
    ("dupmae", {"bow_weight": 0.7}),
    ("condenser", {}),
    ("seed", {}),
    ("tsdae", {}),
]
QUERIES, PASSAGES = SENTENCES[:4], SENTENCES[4:16]  # three passages each: 4 + i, 8 + i, 12 + i
SHARE = 0.6  # of reconstruction in the loss


def make(
    folder: Path, rider: str = "retromae", dropout: float = 0.0, clean: bool = False, **settings: Any
) -> Any:
    torch.manual_seed(0)
    module = UnifiedEncoder.from_checkpoint(folder, rider, settings, seed=3, clean=clean, dropout=dropout)
    return module.train()


def texts(module: Any, first: int, number: int, **more: Any) -> dict[str, Any]:
    """Features of the sentences first, first + 1, …"""
    features = module.preprocess(SENTENCES[first : first + number])
    rows = torch.arange(first, first + number) * 1_000_003
    return {**features, "row_ids": rows, "epochs": torch.full_like(rows, 2), "progress": 0.4, **more}


def chunks_of(features: dict[str, Any], *sizes: int) -> Iterator[dict[str, Any]]:
    """Cut into chunks, padding cut off where it can be."""
    start = 0
    for size in sizes:
        part = {k: v[start : start + size] if isinstance(v, Tensor) else v for k, v in features.items()}
        longest = int(part["attention_mask"].sum(dim=1).max())
        yield {k: v[:, :longest] if isinstance(v, Tensor) and v.ndim == 2 else v for k, v in part.items()}
        start += size


def contrastive(queries: Tensor, passages: Tensor) -> Tensor:
    return nn.functional.cross_entropy(queries @ passages.T, torch.arange(len(queries)))


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(mine: dict[str, Tensor], theirs: dict[str, Tensor], **tolerances: float) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            mine[name],
            value,
            msg=lambda m, name=name: f"{name}: {m}",
            **(tolerances or {"rtol": 1e-4, "atol": 1e-5}),
        )


def naive_contrastive(module: Any) -> Tensor:
    """One text, one score at a time, masks from the integer reference."""
    objective = module.objective
    setting = Setting(
        objective, objective.word_starts.tolist(), objective.ordinary.tolist(), objective.mask_id
    )

    def embed(number: int) -> Tensor:
        ids = module.tokenizer(SENTENCES[number])["input_ids"]
        passage = Passage(ids, row=number * 1_000_003, epoch=2)
        if hasattr(objective.settings, "deletion_ratio"):
            return setting.states(tsdae.remaining(setting, passage))[0]
        masked, _ = setting.mask(passage, objective.settings.encoder_mlm_probability)
        return setting.states(masked)[0]

    losses = []
    for query in range(4):
        scores = [(embed(query) * embed(4 + passage)).sum() for passage in range(12)]
        losses.append(torch.logsumexp(torch.stack(scores), dim=0) - scores[query])
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("rider", "settings"), RIDERS, ids=str)
def test_a_step_in_chunks_is_both_losses_on_the_whole_batch(
    tiny_folder: Folder, rider: str, settings: dict[str, Any]
) -> None:
    module = make(tiny_folder("bert"), rider, **settings).double()
    whole = module.objective(module.batch(texts(module, 0, 16)))
    expected = naive_contrastive(module) + SHARE * whole["loss"]

    queries = chunks_of(texts(module, 0, 4), 3, 1)
    passages = chunks_of(texts(module, 4, 12), 5, 1, 6)
    outputs = [module(chunk) for chunk in reversed([*queries, *passages])][
        ::-1
    ]  # forward passes in any order
    embeddings = torch.cat([output["sentence_embedding"] for output in outputs])
    parts = reconstruction_loss([output["reconstruction"] for output in outputs][::-1], module.weights)
    got = contrastive(embeddings[:4], embeddings[4:]) + SHARE * parts["loss"]

    assert_same(parts, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=1e-5, atol=1e-5)
    assert_same(gradients(got, module), gradients(expected, module))


def test_contributions_of_processes_add_up(tiny_folder: Folder) -> None:
    """Each process knows its own chunks and the totals of all."""
    module = make(tiny_folder("bert"), "dupmae")
    chunks = [module(chunk)["reconstruction"] for chunk in chunks_of(texts(module, 0, 12), 5, 4, 3)]
    whole = reconstruction_loss(chunks, module.weights)
    totals = total_counts(chunk.counts for chunk in chunks)
    shares = [reconstruction_loss(part, module.weights, totals) for part in (chunks[:1], chunks[1:])]
    assert_same({name: shares[0][name] + shares[1][name] for name in whole}, whole)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("rider", ["retromae", "dupmae", "condenser", "seed", "tsdae"])
def test_gradcache_gives_the_gradients_of_one_graph(tiny_folder: Folder, rider: str, clean: bool) -> None:
    """The first pass embeds and counts, the second one also reconstructs; dropout falls alike."""
    module = make(tiny_folder("bert"), rider, dropout=0.2, clean=clean)
    chunks = [*chunks_of(texts(module, 0, 4, mask=False), 4), *chunks_of(texts(module, 4, 12), 7, 5)]

    def run(number: int, **more: Any) -> tuple[Tensor, Reconstruction]:
        torch.manual_seed(number)
        output = module({**chunks[number], **more})
        return output["sentence_embedding"], output["reconstruction"]

    together = [run(number) for number in range(3)]
    embeddings = torch.cat([embedding for embedding, _ in together])
    whole = reconstruction_loss([part for _, part in together], module.weights)["loss"]
    loss = contrastive(embeddings[:4], embeddings[4:]) + SHARE * whole
    expected = gradients(loss, module)

    with torch.no_grad():
        first = [run(number, reconstruct=False) for number in range(3)]
    totals = total_counts(part.counts for _, part in first)
    leaves = torch.cat([embedding for embedding, _ in first]).requires_grad_()
    torch.testing.assert_close(leaves, embeddings)
    contrastive(leaves[:4], leaves[4:]).backward()
    assert leaves.grad is not None
    module.zero_grad()
    for number, cached in enumerate(leaves.grad.split([4, 7, 5])):
        embedding, part = run(number)
        share = reconstruction_loss([part], module.weights, totals)["loss"]
        ((embedding * cached).sum() + SHARE * share).backward()
    assert_same({name: p.grad for name, p in module.named_parameters() if p.grad is not None}, expected)


def test_what_the_embedding_sees(tiny_folder: Folder) -> None:
    """Masked text in training, the plain text when clean, not masked, or in evaluation."""
    module = make(tiny_folder("bert"))
    features = texts(module, 0, 6)
    masked = module(features)["sentence_embedding"]
    plain = module({**features, "mask": False})
    assert isinstance(plain["reconstruction"], Reconstruction)
    assert all(count == 0 for count in plain["reconstruction"].counts.values())
    assert not torch.allclose(masked, plain["sentence_embedding"], atol=1e-2)
    module.clean = True
    both = module(features)
    torch.testing.assert_close(both["sentence_embedding"], plain["sentence_embedding"])
    assert both["reconstruction"].counts["encoder"] > 0
    evaluated = module.eval()(features)
    torch.testing.assert_close(evaluated["sentence_embedding"], plain["sentence_embedding"])
    assert "reconstruction" not in evaluated


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "deberta-v2", "albert", "modernbert", "distilbert", "electra"]
)
def test_every_parameter_gets_a_gradient_from_every_chunk(family: str, tiny_folder: Folder) -> None:
    """Or DDP would wait for it. Adding nothing to the embedding is all that the unused ones may do."""
    module = make(tiny_folder(family), "dupmae")
    names = {name for name, _ in module.named_parameters()}
    for more in ({"mask": False}, {"reconstruct": False}):
        found = gradients(module(texts(module, 0, 3, **more))["sentence_embedding"].sum(), module)
        assert found.keys() == names
        assert not any(g.any() for name, g in found.items() if name.startswith("objective.decoder."))
    output = module(texts(module, 0, 3))
    loss = reconstruction_loss([output["reconstruction"]], module.weights)["loss"]
    assert gradients(loss + output["sentence_embedding"].sum(), module).keys() == names


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_trains_steps_of_plain_and_masked_chunks(tiny_folder: Folder, one_process: None) -> None:
    """DDP refuses the next step when a parameter took no part in the last chunk of the one before."""
    module = make(tiny_folder("bert"))
    model = SentenceTransformer(modules=[module], device="cpu").train()
    wrapped = DistributedDataParallel(model)
    for more in ({"mask": False}, {}, {"reconstruct": False}, {}):
        output = wrapped(texts(module, 0, 4, **more))
        loss = output["sentence_embedding"].square().mean()
        if output["reconstruction"].sums:
            loss = loss + reconstruction_loss([output["reconstruction"]], module.weights)["loss"]
        loss.backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("rider", "settings"), [RIDERS[1], RIDERS[3]], ids=str)
def test_a_checkpoint_is_plain_and_can_go_on(
    tiny_folder: Folder, tmp_path: Path, rider: str, settings: dict[str, Any]
) -> None:
    module = make(tiny_folder("bert"), rider, clean=True, **settings)
    assert module.fresh == ["pre-training heads"]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    module.recipe["provenance"] = {"base": "made up"}
    module.query_length = 6
    prompts = {"query": "find: "}
    own = SentenceTransformer(modules=[module], similarity_fn_name="cosine", prompts=prompts, device="cpu")
    module.save_checkpoint(tmp_path / "model", model=own)

    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert torch.equal(
        plain.encode(SENTENCES, convert_to_tensor=True), own.encode(SENTENCES, convert_to_tensor=True)
    )
    assert torch.equal(
        plain.encode_query(SENTENCES, convert_to_tensor=True),
        own.encode_query(SENTENCES, convert_to_tensor=True),
    )
    assert plain.similarity_fn_name == "cosine" and plain.prompts["query"] == "find: "
    assert plain[0].query_length == 6 and plain[0].document_length is None
    ids = module.preprocess(SENTENCES[:3])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path / "model").eval()(**ids).last_hidden_state
        logits = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()(**ids).logits
        head = module.objective.backbone
        mine = head.head_transform(hidden) @ head.head_weight.T + head.head_bias
    torch.testing.assert_close(logits, mine)

    again = UnifiedEncoder.load(str(tmp_path / "model"))
    assert again.fresh == [] and again.clean and again.objective.seed == 3
    assert (again.query_length, again.document_length) == (6, None)
    assert again.objective.settings == module.objective.settings
    assert again.recipe["provenance"] == {"base": "made up"}
    assert_same(again.state_dict(), module.state_dict(), rtol=0.0, atol=0.0)
    assert open_checkpoint(tmp_path / "model").heads.keys() == module.objective.head_tensors().keys()


def test_sentence_transformers_saves_it_among_other_files_and_loads_it(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    module = make(tiny_folder("bert"))
    model = SentenceTransformer(modules=[module], device="cpu", prompts={"query": "find: "})
    (tmp_path / "optimizer.pt").write_text("not ours")
    for _ in range(2):  # over itself too
        model.save(str(tmp_path))
    assert (tmp_path / "optimizer.pt").read_text() == "not ours"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert isinstance(again[0], UnifiedEncoder)
    assert again.prompts["query"] == "find: "
    assert_same(again.state_dict(), model.state_dict(), rtol=0.0, atol=0.0)


def test_it_is_not_listed_for_token_rows_and_all_listed_are_objectives(tiny_folder: Folder) -> None:
    with pytest.raises(UserError, match="Unknown objective 'unified'"):
        load("unified")
    names = {module.name for module in pkgutil.iter_modules(objectives.__path__)}
    for name in names - set(available()):
        module = import_module(f"retromae.objectives.{name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
        assert [v for v in own if issubclass(v, Objective) and not isabstract(v)] == []
    assert all(issubclass(load(name), Objective) for name in available())


def test_bad_input_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    module = make(tiny_folder("bert"))
    with pytest.raises(UserError, match="without row_ids and epochs"):
        module(module.preprocess(SENTENCES[:2]))
    with pytest.raises(UserError, match="does not hold stage 2"):
        UnifiedEncoder.load(str(tiny_folder("bert")))
    with pytest.raises(UserError, match="decoder_layer"):
        UnifiedEncoder.from_checkpoint(tiny_folder("bert"), "retromae", {"decoder_layer": 2})

    class Aloof(Objective):
        Config = load("mlm").Config

        def draw(self, batch: objectives.Batch) -> Any:
            raise AssertionError("it is refused before anything is drawn")

        def forward(self, batch: objectives.Batch, drawn: Any = None, totals: Any = None) -> dict[str, Any]:
            raise AssertionError("and before anything is computed")

        def flops(self, rows: int, length: int) -> float:
            raise AssertionError("or counted")

    objective = Aloof(
        Backbone.open(tiny_folder("bert")),
        Aloof.Config(),
        objectives.Vocabulary.of(module.tokenizer, module.objective.backbone),
    )
    with pytest.raises(UserError, match="Aloof does not get all its losses from one"):
        UnifiedEncoder(objective, module.tokenizer)


@pytest.mark.parametrize("name", available())
def test_every_objective_rides_or_is_refused(name: str, tiny_folder: Folder) -> None:
    if name in {rider for rider, _ in RIDERS}:
        assert issubclass(load(name), OnePass)
    else:
        with pytest.raises(UserError, match="does not get all its losses from one encoder pass"):
            make(tiny_folder("bert"), name)
