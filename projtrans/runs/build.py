"""Where text first meets tensors: a network for a tokenizer, batches for a corpus, pairs as token ids.

Knows how the settings of a run fit together; neither its folder nor its training.
"""

from collections.abc import Sequence

from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.encoded_corpus import Prepared
from projtrans.data.tokenizer import Tokenizer
from projtrans.model import cooccurrence
from projtrans.model.batching import Example, Examples, Layout
from projtrans.model.transformer import ModelConfig, Transformer
from projtrans.sequences import Ragged


def build_model(config: ModelConfig, corpus: CorpusConfig, tokenizer: Tokenizer) -> Transformer:
    """The network for a tokenizer's vocabularies, with fresh weights."""
    return Transformer(
        config,
        source_size=tokenizer.source_size,
        target_size=tokenizer.target_size,
        max_length=corpus.max_length,
        joint=tokenizer.joint,
    )


def initialise(
    model: Transformer, tokenizer: Tokenizer, examples: Sequence[Example], seed: int
) -> tuple[int, int] | None:
    """Give a new model the embeddings that its settings take from the training pairs.

    Returns how many tokens got one and how many there are, in the vocabularies of all distinct matrices; None where the
    settings ask for nothing.
    """
    settings = model.config.embeddings
    if settings.init != "cooccurrence":
        return None
    source_VD, target_VD = model.source_embedding.weight, model.target_embedding.weight
    given = cooccurrence.initialise(
        source_VD,
        target_VD,
        [example.source for example in examples],
        [example.target for example in examples],
        window=settings.window or cooccurrence.WINDOW,
        reserved=(tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id),
        seed=seed,
    )
    return given, sum(len(weight) for weight in {source_VD, target_VD})


def layout_of(tokenizer: Tokenizer, corpus: CorpusConfig, model: ModelConfig) -> Layout:
    """How this model's examples become padded batches."""
    return Layout(
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        max_length=corpus.max_length,
        mask_padding=model.mask_padding,
        cut_sources=corpus.overlong == "cut",
    )


def encode(tokenizer: Tokenizer, layout: Layout, pairs: Sequence[Pair], *, cut: bool) -> Examples:
    """The pairs as token ids, read from the data folder where they are kept; too long ones are cut, or left out."""
    if isinstance(pairs, Prepared) and pairs.tokenizer == tokenizer.checksum:
        return Examples(layout, *pairs.encoded, cut=cut)
    sources = Ragged.of(tokenizer.encode_source([pair.source for pair in pairs]))
    targets = Ragged.of(tokenizer.encode_target([pair.target for pair in pairs]))
    return Examples(layout, sources, targets, cut=cut)
