"""Serves a folder of results on this machine, and exports tracks.

    python -m syncmv4d_jax.view RESULTS                     # http://127.0.0.1:8000
    python -m syncmv4d_jax.view RESULTS --export glb --sample ID --out ID.glb

RESULTS is a run's --workdir, or a folder of runs. The first page lists the runs with their report
and samples; a sample's page is made when it is asked for. Only files under RESULTS are served, only
of a few kinds, and only to this machine unless --host says otherwise (docs/viewing.md).
"""

import argparse
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from syncmv4d_jax import disk
from syncmv4d_jax.results import export, samples
from syncmv4d_jax.serve import gate, listening, results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m syncmv4d_jax.view",
                                   description=__doc__.split("\n")[0])  # fmt: skip
    made.add_argument("results", type=disk.local, help="a run's workdir, or a folder of runs")
    made.add_argument("--port", type=int, default=8000, help="0 for any free one")
    made.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows it to the whole network")
    made.add_argument("--token-file", default="", help="with a word to be entered, for --host")
    made.add_argument("--no-browser", action="store_true")
    made.add_argument(
        "--export", choices=export.KINDS, help="write a sample's tracks, serve nothing"
    )
    made.add_argument("--sample", help="id of the sample to export")
    made.add_argument("--out", type=disk.local, help="file (ply: folder) to write, <id>.<kind>")
    made.add_argument(
        "--views", action="store_true", help="each view's own copy of the points, too"
    )
    return made


def export_sample(flags: argparse.Namespace) -> Path:
    """Exports one sample of a run (or a sample's own folder).

    Raises:
      ValueError: no such sample; lists those there are.
    """
    root = Path(flags.results)
    found = {root.name: root} if (root / "meta.json").is_file() else samples.find(root / "samples")
    name = flags.sample or (next(iter(found)) if len(found) == 1 else "")
    if name not in found:
        raise ValueError(
            f"{root}: wanted --sample=ID with one of {sorted(found)[:8]}, got {flags.sample!r}"
        )
    target = flags.out or (f"{name}_ply" if flags.export == "ply" else f"{name}.{flags.export}")
    return export.write(flags.export, found[name], target, views=flags.views)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves or exports."""
    flags = parser().parse_args(arguments)
    try:
        if flags.export:
            print(export_sample(flags))
            return
        secret = gate.token(flags.host, flags.token_file)
        application = results.application(flags.results, host=flags.host, secret=secret)
        listener = listening.listen(flags.host, flags.port)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    listening.say(f"{Path(flags.results).resolve()} at", listener)
    if not flags.no_browser:
        url = listening.address(listener)
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    listening.answer(application, listener)


if __name__ == "__main__":
    main()
