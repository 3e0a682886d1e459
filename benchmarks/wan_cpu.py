"""Wan2.2 on a CPU beside diffusers: the transformer, then the autoencoder at its real widths.

    python benchmarks/wan_cpu.py [--rounds 3]

Runs wan_dit_cpu.py and wan_vae_cpu.py --full one after the other, each in a process of its own;
every line is `name ours peer ratio`.
"""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = ["--rounds", str(parser.parse_args().rounds)]
    here = Path(__file__).parent
    for script in (["wan_dit_cpu.py"], ["wan_vae_cpu.py", "--full"]):
        status = subprocess.run([sys.executable, str(here / script[0]), *script[1:], *rounds])
        if status.returncode:
            return status.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
