import time
from typing import Any

import numpy as np
import pytest
import xxhash
from transformers import PreTrainedTokenizerFast

from fedfit.data.corpus import TextSet
from fedfit.data.tokenize import BATCH_TEXTS, Samples, tokenize

TEXTS = ["the cat sat", "", "a considerably longer sentence that will have to be cut short", "a dog"]


def text_set(texts: list[str], pairs: list[str] | None = None) -> TextSet:
    fields = {"text": texts} if pairs is None else {"text": texts, "pair": pairs}
    return TextSet(fields, np.arange(len(texts)) % 2)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Three words and no token types, as RoBERTa's has none."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )


def test_ids_equal_those_of_each_text_alone(minilm_tokenizer: Any) -> None:
    samples = tokenize(text_set(TEXTS), minilm_tokenizer, max_tokens=8)
    for index, text in enumerate(TEXTS):
        alone = minilm_tokenizer(text, truncation=True, max_length=8)["input_ids"]
        assert samples.ids_of(index).tolist() == alone
    assert samples.lengths.tolist() == [5, 2, 8, 4]
    assert samples.classes.tolist() == [0, 1, 0, 1]
    assert (samples.token_ids.dtype.name, samples.offsets.dtype.name) == ("int32", "int64")


def test_an_empty_text_is_its_special_tokens(minilm_tokenizer: Any) -> None:
    samples = tokenize(text_set([""]), minilm_tokenizer, 16)
    assert samples.ids_of(0).tolist() == [minilm_tokenizer.cls_token_id, minilm_tokenizer.sep_token_id]


def test_pairs_have_both_types_and_fit_into_max_tokens(minilm_tokenizer: Any) -> None:
    samples = tokenize(text_set(["one two three four five"], ["six seven"]), minilm_tokenizer, 9)
    # [CLS] four words [SEP] two words [SEP] are nine tokens: the longer sentence is cut.
    assert samples.segments is not None
    assert samples.segments.tolist() == [0] * 6 + [1] * 3
    assert samples.segments.dtype == np.int8


def test_a_tokenizer_without_token_types_gives_none() -> None:
    samples = tokenize(text_set(["a b", "b"]), word_tokenizer(), 4)
    assert samples.segments is None
    assert samples.token_ids.tolist() == [0, 1, 1]


def test_the_hash_is_that_of_the_tokens_and_of_nothing_else(minilm_tokenizer: Any) -> None:
    samples = tokenize(text_set(["The  cat sat", "a dog", "the cat sat"]), minilm_tokenizer, 8)
    ids, types = samples.ids_of(0), np.zeros(5, dtype=np.int8)
    assert samples.hashes[0] == xxhash.xxh3_128_digest(ids.astype("<i4").tobytes() + types.tobytes())
    assert samples.hashes[0] == samples.hashes[2] != samples.hashes[1]
    assert len(samples.hashes[0]) == 16


def test_the_same_tokens_in_other_sentences_have_another_hash(minilm_tokenizer: Any) -> None:
    # The type ids differ, and with them what the model computes.
    separator = minilm_tokenizer.sep_token
    pair = tokenize(text_set(["a"], ["b"]), minilm_tokenizer, 16)
    single = tokenize(text_set([f"a {separator} b"]), minilm_tokenizer, 16)
    np.testing.assert_array_equal(pair.token_ids, single.token_ids)
    assert pair.hashes != single.hashes


def test_select_equals_tokenizing_the_selected_texts(minilm_tokenizer: Any) -> None:
    texts = text_set(TEXTS)
    chosen = [2, 0, 0, 1]
    selected = tokenize(texts, minilm_tokenizer, 8).select(chosen)
    assert_same(selected, tokenize(texts.select(chosen), minilm_tokenizer, 8))
    assert len(selected.select([])) == 0


def test_batching_changes_nothing() -> None:
    texts = ["a b"[: 1 + index % 3] for index in range(2 * BATCH_TEXTS + 5)]
    samples = tokenize(text_set(texts), word_tokenizer(), 4)
    assert samples.lengths.tolist() == [len(text.split()) for text in texts]


def test_no_texts_are_no_samples() -> None:
    samples = tokenize(text_set([]), word_tokenizer(), 4)
    assert (len(samples), samples.offsets.tolist(), samples.hashes) == (0, [0], [])


@pytest.mark.parametrize("text", ["word " * 200_000, "x" * 1_000_000], ids=["words", "one word"])
def test_a_text_of_a_megabyte_is_cut_in_seconds(minilm_tokenizer: Any, text: str) -> None:
    start = time.perf_counter()
    samples = tokenize(text_set([text]), minilm_tokenizer, 64)
    assert samples.lengths[0] <= 64
    assert time.perf_counter() - start < 20  # measured: 1 s


def assert_same(left: Samples, right: Samples) -> None:
    np.testing.assert_array_equal(left.token_ids, right.token_ids)
    np.testing.assert_array_equal(np.asarray(left.segments), np.asarray(right.segments))
    np.testing.assert_array_equal(left.offsets, right.offsets)
    np.testing.assert_array_equal(left.labels, right.labels)
    assert left.hashes == right.hashes
