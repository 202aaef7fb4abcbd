"""What a method trains of a model, in numbers: the input of the memory estimate."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.architecture import Linear


@dataclass(frozen=True)
class TrainedParameters:
    """What is trained of a model.

    Attributes:
        added: trained numbers beside the model's own.
        own: trained numbers of the model itself; they are stored in float32.
        layers: names of the linear layers whose inputs the backward pass reads.
        depth: decoder layers that the backward pass goes through, counted from the last one.
        rank: width between the two factors of an adapter; 0 without an adapter.
        dropout: whether dropout is applied to an adapter's input.
        magnitude: whether each weight has a trained magnitude (DoRA).
        dense: whether DoRA's norms are computed from the whole updated weight, as PEFT does; else only beside a bias.
        reference: numbers of the frozen copy that the policy is compared with (ReFT).
        embeddings: numbers of `own` that belong to the embeddings of the vocabulary.
        norms: whether norms of blocks are trained.
        blocks: blocks with trained parameters; None for all that the backward pass goes through.
        factors: whether layers are multiplied by a trained vector (IA3).
        prefix: whether trained keys and values stand before those of the text, which needs a mask.
        bottleneck: width of the small network behind attention and feed-forward part; 0 without.
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
    norms: bool = False
    blocks: int | None = None
    factors: bool = False
    prefix: bool = False
    bottleneck: int = 0

    def is_dense(self, linear: Linear) -> bool:
        """Whether a layer is PEFT's own DoRA: the trainer can't cache the norms of a layer with a bias."""
        return self.dense or (self.magnitude and linear.bias)

    @property
    def parameters(self) -> int:
        """All trained numbers."""
        return self.added + self.own
