"""Plain text as samples: every token but the first is predicted once, and the bytes are those of the text."""

import numpy as np
import pytest

from fedfit.data.corpus import TextSet
from fedfit.errors import DataError
from fedfit.tasks.language_modelling import LanguageModelling, perplexity
from tests.builders import chat_tokenizer

TEXTS = ["ab cd é f g", "", "h i", "k"]


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("limit", [4, 5, 100])
def test_pieces_cover_the_text(begins: bool, limit: int) -> None:
    tokenizer = chat_tokenizer()
    if not begins:
        tokenizer.bos_token = None
    found = LanguageModelling().encode(TextSet({"text": TEXTS}), tokenizer, limit)
    assert found.notes == ["1 rows without text are left out"]
    assert (np.diff(found.samples.offsets) <= limit).all()
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        samples = np.flatnonzero(found.kept == row)
        pieces = [found.samples.ids_of(sample).tolist() for sample in samples]
        predicted = [token for piece in pieces for token in piece[1:]]
        if begins:
            assert predicted == ids
            assert all(piece[0] == tokenizer.bos_token_id for piece in pieces)
            # Blanks between two pieces belong to none of them.
            assert len(text.encode()) - len(pieces) <= found.samples.classes[samples].sum() <= len(text.encode())
        elif len(ids) > 1:
            assert [token for piece in pieces for token in piece] == ids[: sum(map(len, pieces))]
            assert set(range(len(ids))) - {0, *range(limit, len(ids), limit)} == {
                place + start
                for start, piece in zip(range(0, len(ids), limit), pieces, strict=False)
                for place in range(1, len(piece))
            }
        else:
            assert not pieces, "one token alone predicts nothing"


def test_texts_without_two_tokens() -> None:
    with pytest.raises(DataError, match=r"none of 2 texts has two tokens; check data.text"):
        LanguageModelling().encode(TextSet({"text": ["", " "]}), chat_tokenizer(), 10)


def test_a_perplexity_too_large_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e4) == float("inf")
