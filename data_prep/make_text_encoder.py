"""Makes a small frozen umT5 from a seed and a tokenizer, for embedded scenes.

    python data_prep/make_text_encoder.py --out DIR [--dim 32] [--seed 0]

Writes DIR/umt5 in the form of convert_weights.py. The tokenizer (SentencePiece) is trained on the
sentences of all triplets of the embedded scenes. Random features tell words apart, which is all
that a model trained on them needs; for real prompts convert the real umT5-XXL.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import jax

from syncmv4d_jax import tokenizer, weights
from syncmv4d_jax.data import synthetic_motion, synthetic_objects, windows
from syncmv4d_jax.models.wan import umt5
from syncmv4d_jax.nn import module

TEXT = windows.Settings.text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    combinations = itertools.product(
        synthetic_motion.ACTIONS, synthetic_objects.TOOLS, synthetic_objects.TARGETS
    )
    sentences = [TEXT.format(action=a, tool=t, target=o) for a, t, o in combinations]
    piece_model = tokenizer.train_sentencepiece(sentences)
    vocab = tokenizer.Tokenizer(piece_model).vocab
    config = umt5.UMT5Config(
        vocab=vocab,
        dim=args.dim,
        heads=4,
        d_head=args.dim // 4,
        ffn_dim=2 * args.dim,
        layers=args.layers,
        dtype="float32",
    )
    params = module.init(umt5.UMT5, config, jax.random.key(args.seed))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spiece.model"
        file.write_bytes(piece_model)
        source = {"seed": args.seed, "by": "data_prep/make_text_encoder.py"}
        weights.save("umt5", config, params, args.out, source=source, tokenizer_files=[file])
    print(f"{args.out}/umt5: {vocab} pieces, width {args.dim}")


if __name__ == "__main__":
    main()
