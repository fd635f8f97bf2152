"""A cache with something to say about each picture, and a language model and tokenizer to read it with."""

from pathlib import Path
from typing import Final

from jobs.bench.feature_corpus import FeatureCorpus, write_feature_corpus
from jobs.demo.language_model import LanguageModelShape, save_language_model
from jobs.demo.tokenizer import BEGIN, END, PAD, train_tokenizer
from pipelines.commit import put_object
from pipelines.ingest.tables import EXAMPLES
from schemas.corpus import SourceTotals
from schemas.digest import canonical_json
from schemas.plan import Leaf, ShardPlan
from schemas.record import Modality

QUESTION: Final = "What stands in the picture, and where does it stand? Say it in one sentence."
ANSWER: Final = "Noise of no kind that anybody has seen stands all over the picture, evenly and without end."


def write_corpus(folder: Path, num_items: int) -> FeatureCorpus:
    """Items of five views with one example each, in one shard."""
    corpus = write_feature_corpus(folder, 1, num_items)
    leaf = Leaf(modality=Modality.IMAGE, prefix="", num_items=num_items, num_media_bytes=0, num_views=0)
    turns = [["human", f"<image>\n{QUESTION}"], ["gpt", ANSWER]]
    text = canonical_json(turns)
    rows = [
        (f"{number:032x}", "pictures", "made up", number, str(number), key, Modality.IMAGE.value, 170, text)
        for number, (_, key) in enumerate(sorted(corpus.keys))
    ]
    examples = put_object(corpus.storage, "examples", "all", "parquet", EXAMPLES.write(rows), num_items)
    source = SourceTotals(
        name="pictures",
        files={"made up": num_items},
        read=num_items,
        taken=num_items,
        written=num_items,
        rejects={},
        reject_budget=0.0,
    )
    features = corpus.manifest.features[corpus.spec]
    shards = [shard.model_copy(update={"name": leaf.name}) for shard in features.shards]
    manifest = corpus.manifest.model_copy(
        update={
            "sources": [source],
            "examples": [examples],
            "plan": ShardPlan([leaf]),
            "features": {corpus.spec: features.model_copy(update={"shards": shards})},
        }
    )
    keys = tuple((leaf.name, key) for _, key in corpus.keys)
    return FeatureCorpus(corpus.storage, manifest, corpus.spec, keys)


def write_language_model(folder: Path, shape: LanguageModelShape) -> Path:
    """A random Llama of a shape, with a tokenizer that knows the words above."""
    vocabulary = train_tokenizer([QUESTION, ANSWER], folder, vocabulary_size=400).get_vocab()
    save_language_model(
        folder,
        vocabulary_size=len(vocabulary),
        bos_id=vocabulary[BEGIN],
        eos_id=vocabulary[END],
        pad_id=vocabulary[PAD],
        shape=shape,
    )
    return folder
