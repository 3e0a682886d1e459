"""All CPU ratios, one after the other: `make bench`.

    python benchmarks/run.py [--only mjd_cpu sampling] [--list]

Runs the quick form of every script of SCRIPTS in a process of its own and repeats their lines
`name ours peer ratio` at the end, each with the processor it is of, and the seconds of each script
and of all. Scripts that need a folder, gigabytes or an hour are not here; benchmarks/RESULTS.md
says how they were run.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import timing

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "start": [],
    "wan_dit_cpu": ["--rounds", "2"],
    "wan_vae_cpu": ["--rounds", "2"],
    "mjd_cpu": ["--rounds", "2"],
    "points": [],
    "motion": [],
    "demo_step": ["--rounds", "2"],
    "cycle": ["--repeats", "2"],
    "sampling": [],
    "pipeline": [],
    "evaluation": ["--samples", "10"],
    "data": ["--quick"],
}
PEERS = ("torch", "diffusers")
NUMBER = r"-?(?:\d[\d.e+-]*|inf|nan)"
LINE = re.compile(rf"^\S+ {NUMBER} {NUMBER} {NUMBER}$")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS))
    parser.add_argument("--list", action="store_true", help="say what would run")
    args = parser.parse_args()
    if args.list:
        for name in args.only:
            print("python", f"benchmarks/{name}.py", *SCRIPTS[name])
        return 0
    if missing := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        sys.exit(f"bench: the peers {missing} are not installed; `make bench` installs them")
    environment = {"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "passive", **os.environ}
    begin, lines, failed, here = time.perf_counter(), [], [], timing.processor()
    for name in args.only:
        start = time.perf_counter()
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *SCRIPTS[name]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
            for line in run.stdout:
                print(line, end="", flush=True)
                lines += [f"{line.rstrip()} # {here}"] * bool(LINE.match(line))
        lines.append(f"# {name}: {time.perf_counter() - start:.0f} s")
        if run.returncode:
            failed.append(f"{name} (status {run.returncode})")
    print("\nname ours peer ratio # processor", *lines, sep="\n")
    print(f"total {time.perf_counter() - begin:.0f} s", *(f"failed: {x}" for x in failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
