"""What each method trains of a model, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from finetune_api.estimate.architecture import Architecture
from finetune_api.resolve import DEFAULT_BOTTLENECK_SIZE, DEFAULT_VIRTUAL_TOKENS
from finetune_api.spec.method import (
    AdditiveSpec,
    LowRankSpec,
    MethodSpec,
    MethodType,
    PartialSpec,
    Technique,
)
from finetune_api.spec.reft import ReftPolicy

_IA3_LAYERS = ("k_proj", "v_proj", "down_proj", "qkv_proj")


@dataclass(frozen=True)
class Trained:
    """What is trained of a model.

    Attributes:
        added: numbers beside the model's own.
        own: numbers of the model itself, which are then kept in float32.
        embeddings: those of them that are the embeddings of its vocabulary.
        layers: names of the linear layers whose inputs the backward pass reads.
        depth: blocks that the backward pass goes through, from the last one down.
        rank: width between the two factors of an adapter; 0 without.
        dropout: whether an adapter's input goes through dropout.
        magnitude: whether each weight has a trained magnitude (DoRA).
        dense: whether the norms of a DoRA are taken from the whole updated weight, as PEFT does.
        reference: numbers that are kept as they were before (ReFT compares with its warm-up).
    """

    added: int
    own: int
    layers: frozenset[str]
    depth: int
    rank: int = 0
    dropout: bool = False
    magnitude: bool = False
    dense: bool = False
    reference: int = 0
    embeddings: int = 0

    @property
    def parameters(self) -> int:
        """Everything that is trained."""
        return self.added + self.own


def trained_by(method: MethodSpec, model: Architecture) -> Trained:
    """What a method trains of a model."""
    trained = _trained_by(method, model)
    return replace(trained, reference=trained.parameters) if method.reft else trained


def _trained_by(method: MethodSpec, model: Architecture) -> Trained:
    if method.type is MethodType.FULL or (method.reft and method.reft.policy is ReftPolicy.FULL):
        return Trained(0, model.parameters, frozenset(linear.name for linear in model.linears), model.layers,
                       embeddings=model.vocabulary * model.hidden)
    if method.type is MethodType.PARTIAL:
        assert method.partial is not None
        return _in_place(method.partial, model)
    if method.type is MethodType.ADDITIVE:
        return _added(method.additive or AdditiveSpec(), model)
    _, settings = method.low_rank or ("", LowRankSpec())
    dora = method.type is MethodType.DORA or bool(method.reft and method.reft.policy is ReftPolicy.DORA)
    # A layer with a bias, and dropout, leave DoRA to PEFT's own way.
    kept = bool(method.dora and method.dora.kept_norms) and not settings.dropout and not any(
        linear.bias for linear in model.linears)
    return _low_rank(settings, model, dora, dense=dora and not kept)


def _low_rank(settings: LowRankSpec, model: Architecture, magnitude: bool, dense: bool) -> Trained:
    wanted = settings.target_modules
    chosen = [linear for linear in model.linears if wanted is None or linear.name in {
        name.rpartition(".")[2] for name in wanted}]
    added = model.layers * sum(settings.rank * (linear.inputs + linear.outputs) + (linear.outputs if magnitude else 0)
                               for linear in chosen)
    return Trained(added, 0, frozenset(linear.name for linear in chosen), model.layers, settings.rank,
                   settings.dropout > 0, magnitude, dense)


def _in_place(partial: PartialSpec, model: Architecture) -> Trained:
    if partial.parameters is not None:
        chosen = [(name, size, block) for name, size, block in _named(model)
                  if any(fnmatchcase(name, pattern) for pattern in partial.parameters)]
    else:
        first = model.layers - (partial.last_layers or 0)
        blocks = set(partial.layers) if partial.layers is not None else set(range(first, model.layers))
        chosen = [one for one in _named(model) if one[2] in blocks]
    lowest = min((block for _, _, block in chosen), default=model.layers)
    layers = {linear.name for linear in model.linears for name, _, _ in chosen if f".{linear.name}.weight" in name}
    return Trained(0, sum(size for _, size, _ in chosen), frozenset(layers), model.layers - max(0, lowest),
                   embeddings=sum(size for _, size, block in chosen if block < 0))


def _named(model: Architecture) -> Iterator[tuple[str, int, int]]:
    """A model's parameters as Llama's kin name them: name, numbers, and block; the embedding lies before them."""
    yield "model.embed_tokens.weight", model.vocabulary * model.hidden, -1
    for block in range(model.layers):
        for linear in model.linears:
            part = "mlp" if linear.source in ("middle", "product") else "self_attn"
            yield f"model.layers.{block}.{part}.{linear.name}.weight", linear.weights, block
            if linear.bias:
                yield f"model.layers.{block}.{part}.{linear.name}.bias", linear.outputs, block
        yield f"model.layers.{block}.norms_layernorm.weight", model.norms, block
    yield "model.norm.weight", model.hidden, model.layers
    if not model.tied:
        yield "lm_head.weight", model.vocabulary * model.hidden, model.layers


def _added(additive: AdditiveSpec, model: Architecture) -> Trained:
    tokens = additive.virtual_tokens or DEFAULT_VIRTUAL_TOKENS
    if additive.technique is Technique.PROMPT_TUNING:
        return Trained(tokens * model.hidden, 0, frozenset(), model.layers)
    if additive.technique is Technique.PREFIX_TUNING:
        return Trained(2 * tokens * model.key_values * model.layers, 0, frozenset(), model.layers)
    if additive.technique is Technique.BOTTLENECK:
        size = additive.bottleneck_size or DEFAULT_BOTTLENECK_SIZE
        one = 2 * size * model.hidden + size + model.hidden
        return Trained(2 * one * model.layers, 0, frozenset(), model.layers, rank=2 * size)
    names = additive.target_modules or _IA3_LAYERS
    scaled = [linear for linear in model.linears if linear.name in names]
    # Each factor is on what comes out, but on what goes into the feed-forward's last layer.
    added = model.layers * sum(linear.inputs if linear.source == "product" else linear.outputs for linear in scaled)
    return Trained(added, 0, frozenset(linear.name for linear in scaled), model.layers)
