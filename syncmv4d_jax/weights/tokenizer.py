"""umT5's tokenizer: prompt cleaning and SentencePiece, from bytes.

A prompt is repaired (ftfy), HTML entities are decoded twice, white space is collapsed, the pieces
are encoded, `</s>` is appended and the row is filled up with the pad id to a fixed length, as in
wan/modules/tokenizers.py and transformers' T5 tokenizer.
"""

import html
import io
import re
from collections.abc import Iterable, Sequence

import ftfy
import numpy as np
import sentencepiece

MAX_LENGTH = 512  # tokens, `</s>` included

# Wan2.2's negative prompt (wan/configs/shared_config.py), used wherever none is given.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def clean(text: str) -> str:
    """Returns the prompt as the encoder was trained to see it."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


class Tokenizer:
    """A SentencePiece model with T5's conventions (pad 0, `</s>` 1)."""

    def __init__(self, model: bytes, *, max_length: int = MAX_LENGTH):
        """Reads a SentencePiece model.

        Args:
          model: the bytes of `spiece.model`.
          max_length: length of a row.

        Raises:
          ValueError: not a SentencePiece model, or one without `</s>` and a pad.
        """
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"not a SentencePiece model ({len(model)} bytes): {error}") from error
        self.max_length = max_length
        self.end_id = self._pieces.eos_id()
        self.pad_id = self._pieces.pad_id()
        if self.end_id < 0 or self.pad_id < 0:
            raise ValueError(
                f"wanted a model with </s> and <pad>, got ids {self.end_id} and {self.pad_id}"
            )

    @property
    def vocab(self) -> int:
        """Number of pieces."""
        return self._pieces.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a cleaned prompt, `</s>` at the end, not cut."""
        return [*self._pieces.encode(clean(text)), self.end_id]

    def encode_batch(
        self, texts: Sequence[str], *, truncate: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes prompts to rows of `max_length`.

        Args:
          texts: b prompts.
          truncate: cut longer prompts to max_length - 1 tokens and `</s>`, as the official pipeline
            does silently; otherwise they are an error.

        Returns:
          ids [b l] int32 and mask [b l] bool, True on tokens (`</s>` included).

        Raises:
          ValueError: a prompt that is too long, with `truncate=False`.
        """
        ids = np.full((len(texts), self.max_length), self.pad_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, text in enumerate(texts):
            tokens = self.encode(text)
            if len(tokens) > self.max_length:
                if not truncate:
                    raise ValueError(
                        f"prompt {row} has {len(tokens)} tokens, wanted at most {self.max_length}: "
                        f"{text[:60]!r}... (truncate=True cuts it)"
                    )
                tokens = [*tokens[: self.max_length - 1], self.end_id]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask


def train_sentencepiece(sentences: Iterable[str], *, vocab: int = 256) -> bytes:
    """Trains a small SentencePiece model with T5's ids; the same sentences give the same bytes.

    Args:
      sentences: the corpus; cleaned here.
      vocab: number of pieces, the special ones included.

    Returns:
      The bytes of the model: pad 0, `</s>` 1, unknown 2.

    Raises:
      ValueError: an empty corpus.
    """
    corpus = [text for text in (clean(sentence) for sentence in sentences) if text]
    if not corpus:
        raise ValueError("train_sentencepiece: wanted at least one sentence, got none")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=vocab,
        model_type="unigram",
        character_coverage=1.0,
        byte_fallback=False,
        hard_vocab_limit=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        minloglevel=2,
    )
    return model.getvalue()
