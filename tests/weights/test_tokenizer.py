"""Tokenizer: cleaning, rows, deterministic training, and transformers' T5 tokenizer live."""

import numpy as np
import pytest

from syncmv4d_jax.weights import tokenizer

CORPUS = [
    "A person pours water from a kettle into a bowl with the right hand.",
    "The left hand holds a plate, the right hand brushes it; a camera looks on.",
    "Eine Person schneidet mit einem Messer ein Brett, während die linke Hand es hält.",
    "Une personne verse de l'eau dans un bol, très lentement, à côté d'une tasse.",
    "Человек держит миску левой рукой и мешает ложкой правой.",
    "一个人用右手把水从水壶倒进碗里。左手拿着盘子。",
    "右手でやかんの水をボウルに注ぐ。左手は皿を持つ。",
    "شخص يصب الماء من الإبريق في الوعاء باليد اليمنى.",
] * 4


@pytest.fixture(scope="module")
def model():
    return tokenizer.train_sentencepiece(CORPUS, vocab=320)


def odd_prompts(count=200):
    """Prompts of six languages and more with odd white space, entities, and broken encodings."""
    rng = np.random.default_rng(0)
    oddities = [
        "  ", "\t", "\n\n", "&amp;", "&amp;lt;b&amp;gt;", "&nbsp;", "Ã©", "â€™", "\u3000", "\u200b",
        "😀", "!!!", "ＡＢＣ", "1.5m", "<pad", "</s", "ﬁ", "e\u0301", "…", "\x07", "“", "Ω",
    ]  # fmt: skip
    prompts = ["", " ", "a", "&quot;"]
    while len(prompts) < count:
        words = " ".join(rng.choice(CORPUS, 2)).split(" ")
        rng.shuffle(words)
        pieces = [*words[: rng.integers(1, 12)], *rng.choice(oddities, rng.integers(0, 5))]
        rng.shuffle(pieces)
        prompts.append(rng.choice([" ", "", "  "]).join(pieces))
    return prompts


def test_clean():
    assert tokenizer.clean("  a \n\t b&amp;amp;c&amp;nbsp; ") == "a b&c"
    assert tokenizer.clean("cafÃ©") == "café"


def test_training_is_deterministic(model):
    assert tokenizer.train_sentencepiece(CORPUS, vocab=320) == model
    with pytest.raises(ValueError, match="at least one"):
        tokenizer.train_sentencepiece([" "])


def test_rows(model):
    tok = tokenizer.Tokenizer(model, max_length=24)
    ids, mask = tok.encode_batch(["A person pours water.", ""])
    assert ids.dtype == np.int32 and ids.shape == mask.shape == (2, 24)
    assert (tok.pad_id, tok.end_id) == (0, 1) and tok.vocab <= 320
    np.testing.assert_array_equal(ids != 0, mask)
    assert ids[1, 0] == 1 and mask[1].sum() == 1
    assert ids[0, mask[0].sum() - 1] == 1


def test_long_prompt(model):
    tok = tokenizer.Tokenizer(model, max_length=8)
    with pytest.raises(ValueError, match="prompt 1 has .* wanted at most 8"):
        tok.encode_batch(["a", CORPUS[0]])
    ids, mask = tok.encode_batch(["a", CORPUS[0]], truncate=True)
    assert ids[1, -1] == 1 and mask[1].all()


def test_not_a_model():
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        tokenizer.Tokenizer(b"nonsense")


@pytest.mark.parity
@pytest.mark.parametrize("max_length", [512, 12])
def test_equals_transformers(model, tmp_path, max_length):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "spiece.model").write_bytes(model)
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=0)
    ours = tokenizer.Tokenizer(model, max_length=max_length)
    prompts = odd_prompts()
    ids, mask = ours.encode_batch(prompts, truncate=True)
    wanted = theirs(
        [tokenizer.clean(p) for p in prompts],
        padding="max_length", truncation=True, max_length=max_length, return_tensors="np",
    )  # fmt: skip
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"].astype(bool))
