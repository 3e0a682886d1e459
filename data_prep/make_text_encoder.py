"""Makes a small frozen umT5 from a seed and a tokenizer, for embedded scenes.

    python data_prep/make_text_encoder.py --out DIR [--dim 32] [--layers 2] [--seed 0]

Writes DIR/umt5 in the form of convert_weights.py. The tokenizer (SentencePiece) is trained on the
sentences of all triplets of the embedded scenes. Random features tell words apart, which is all
that a model trained on them needs; for real prompts convert the real umT5-XXL.
"""

import argparse

from syncmv4d_jax import disk
from syncmv4d_jax.run import embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=disk.local, required=True)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vocab = embedded.text_encoder(args.out, dim=args.dim, layers=args.layers, seed=args.seed)
    print(f"{args.out}/umt5: {vocab} pieces, width {args.dim}")


if __name__ == "__main__":
    main()
