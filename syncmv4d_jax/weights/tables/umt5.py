"""Table of the umT5 encoder: Wan2.2's own keys and those of transformers' UMT5EncoderModel."""

from syncmv4d_jax.models.wan import umt5
from syncmv4d_jax.weights.engine import TRANSPOSE, Rule

ALIASES = r"encoder\.embed_tokens\.weight"  # tied to shared.weight; may be there or not


def rules(config: umt5.UMT5Config, layout: str) -> list[Rule]:
    """Returns the table of a layout, "official" or "diffusers" (transformers' names)."""
    del config
    if layout == "official":
        block, feed, attention = "blocks.{n}.", "blocks.{n}.ffn.", "blocks.{n}.attn."
        names = ("token_embedding", "norm", "norm1", "norm2", "pos_embedding.embedding")
        gate, fc1, fc2 = "gate.0", "fc1", "fc2"
    else:
        block = "encoder.block.{n}.layer."
        feed, attention = block + "1.DenseReluDense.", block + "0.SelfAttention."
        names = (
            "shared", "encoder.final_layer_norm", "0.layer_norm", "1.layer_norm",
            "0.SelfAttention.relative_attention_bias",
        )  # fmt: skip
        gate, fc1, fc2 = "wi_0", "wi_1", "wo"
    embedding, norm, norm1, norm2, position = names
    table = [
        Rule(f"{embedding}.weight", "token_embedding/embedding"),
        Rule(f"{norm}.weight", "norm/scale"),
        Rule(f"{block}{norm1}.weight", "blocks/norm1/scale"),
        Rule(f"{block}{norm2}.weight", "blocks/norm2/scale"),
        Rule(f"{block}{position}.weight", "blocks/pos_embedding/embedding"),
        Rule(f"{feed}{gate}.weight", "blocks/ffn/gate/kernel", TRANSPOSE),
        Rule(f"{feed}{fc1}.weight", "blocks/ffn/fc1/kernel", TRANSPOSE),
        Rule(f"{feed}{fc2}.weight", "blocks/ffn/fc2/kernel", TRANSPOSE),
    ]
    for letter in "qkvo":
        path = f"blocks/attn/{letter}/kernel"
        table.append(Rule(f"{attention}{letter}.weight", path, TRANSPOSE))
    return table
