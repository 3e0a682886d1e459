"""Writes parts.txt: what MJD at full size adds to Wan2.2-TI2V-5B, path, shape and parameters.

    python tests/golden/mjd_parts/make.py

The sizes follow from readings A6, A8, A12, A13 (docs/paper.md); the test compares with the model.
"""

from pathlib import Path

from syncmv4d_jax import tree
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit

FILE = Path(__file__).parent / "parts.txt"


def lines() -> list[str]:
    """One line a parameter that Wan does not have, then sums by part."""
    wan = tree.flatten(module.shapes(dit.DiT, wan_config.TI2V_5B))
    config = mjd_config.MJDConfig(camera_embedding=True)
    mine = {n: x for n, x in tree.flatten(module.shapes(mjd.MJD, config)).items() if n not in wan}
    result = [f"{n} {'x'.join(map(str, x.shape))} {x.size}" for n, x in sorted(mine.items())]
    sums: dict[str, int] = {}
    for name, leaf in mine.items():
        parts = name.split("/")
        part = "/".join(parts[: 2 if parts[0] == "blocks" else 1])
        sums[part] = sums.get(part, 0) + leaf.size
    return result + [f"total {part} {count}" for part, count in sorted(sums.items())]


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
