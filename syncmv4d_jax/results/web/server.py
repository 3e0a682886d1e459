"""A small HTTP server of a workdir: runs, reports, samples, exports."""

import html
import http.server
import json
import os
import shutil
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

from syncmv4d_jax.results import curves, export, samples
from syncmv4d_jax.results.web import pages, report

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".npz": "application/octet-stream",
    ".glb": "model/gltf-binary",
}
DEPTH = 3  # folders below the root in which runs are looked for
SHOWN = ("mv_rpe", "error_mm", "psnr_moving")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' "
    "data:; media-src 'self' blob:; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'",
}


def runs(root: str | Path) -> list[Path]:
    """Returns the runs in `root` and up to DEPTH folders below: samples, a report or metrics."""
    found, level = [], [Path(root).resolve()]
    top = level[0]
    for _ in range(DEPTH + 1):
        below = []
        for folder in level:
            names = ("report.html", "eval.json", "metrics.jsonl")
            if any((folder / n).is_file() for n in names) or samples.find(folder / "samples"):
                found.append(folder)
                continue
            below += [f for f in sorted(folder.iterdir()) if f.is_dir() and f.name[0] != "."]
        level = [f for f in below if f.resolve().is_relative_to(top)]
    return sorted(found)


def listing(root: Path) -> str:
    """Returns the first page: every run with its report, headline numbers and samples."""
    sections = [_section(root, run) for run in runs(root)]
    nothing = "<p>No run here: no report.html, no metrics.jsonl, no samples.</p>"
    return pages.join(
        "listing.html", ROOT=html.escape(root.name), RUNS="\n".join(sections) or nothing
    )


def _section(root: Path, run: Path) -> str:
    place = run.relative_to(root).as_posix()
    base = "/" + urllib.parse.quote(place + "/").removeprefix("./")
    parts = [f"<section><h2>{html.escape(run.name if place == '.' else place)}</h2>"]
    text = headline(run)
    if text:
        parts.append(f'<p class="soft">{html.escape(text)}</p>')
    links = [f'<a href="{base}{name}">{words}</a>' for name, words in
             (("report.html", "report"), ("eval.md", "tables"), ("eval.json", "numbers"))
             if (run / name).is_file()]  # fmt: skip
    parts.append("<p>" + " · ".join(links) + "</p>" if links else "")
    found = samples.find(run / "samples")
    if found:
        lines = []
        for name, folder in found.items():
            url = f"{base}samples/{urllib.parse.quote(name)}"
            line = f'<li><a href="{url}/">{html.escape(name)}</a>'
            if (folder / "tracks.npz").is_file():
                line += f' <a class="soft" href="{url}.glb" download>glb</a>'
            lines.append(line + "</li>")
        parts.append(f"<details open><summary>{len(found)} samples</summary><ul>")
        parts += [*lines, "</ul></details>"]
    return "\n".join([*parts, "</section>"])


def headline(run: Path) -> str:
    """Returns a run's numbers in one line: steps and loss, scenes, checks and SHOWN."""
    parts = []
    rows = curves.read(run / "metrics.jsonl")
    if rows:
        parts.append(f"{rows[-1]['step']} steps, loss {rows[-1].get('loss', '?')}")
    try:
        evaluation = json.loads((run / "eval.json").read_text())
        parts.append(f"{evaluation['scenes']} scenes")
        passed = sum(c["passed"] for c in evaluation["checks"])
        parts.append(f"{passed} of {len(evaluation['checks'])} checks passed")
        for m in SHOWN:
            value = evaluation["rows"]["model"].get(m, {}).get("value")
            if value is not None:
                d = evaluation["definitions"][m]
                parts.append(f"{d['title']} {value:.3g} {d['unit']}".strip())
    except (OSError, ValueError, KeyError):
        pass  # no evaluation, or a half-written one: the list stays
    return " · ".join(parts)


def inside(root: Path, url: str) -> Path | None:
    """Returns the path a URL names, None where it is outside of root (links are followed first)."""
    text = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    if "\0" in text or "\\" in text:
        return None
    parts = [p for p in text.split("/") if p not in ("", ".")]
    if any(p.startswith(".") for p in parts):  # "..", and hidden files
        return None
    path = root.joinpath(*parts).resolve()
    return path if path.is_relative_to(root) else None


def sample_page(folder: Path) -> bytes:
    """Returns the page of one sample, without a ground truth."""
    sample = samples.read(folder)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "page.html"
        text = json.dumps(sample["meta"], indent=1)
        report.write(path, [sample | {"id": folder.name}], None, [], text, "sample " + folder.name)
        return path.read_bytes()


def sample_glb(folder: Path) -> bytes:
    """Returns a sample's tracks as a glTF file."""
    with tempfile.TemporaryDirectory() as place:
        return export.write("glb", folder, Path(place) / "tracks.glb").read_bytes()


class Server(http.server.ThreadingHTTPServer):
    """Serves the results under `root`."""

    daemon_threads = True

    def __init__(self, root: str | Path, address: tuple[str, int]) -> None:
        """Raises: NotADirectoryError: root is no folder."""
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise NotADirectoryError(f"{root}: wanted a folder of results")
        super().__init__(address, Handler)
        own = {address[0], "127.0.0.1", "localhost", "[::1]"}
        self.names = own if address[0] in ("127.0.0.1", "localhost", "::1") else None


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of the list, of samples and of files; nothing else."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers one request."""
        try:
            self._answer()
        except (ValueError, OSError, KeyError) as error:
            self._send(500, "text/plain; charset=utf-8", f"{type(error).__name__}: {error}")

    do_HEAD = do_GET

    def _answer(self) -> None:
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if self.server.names is not None and host not in self.server.names:
            return self._refuse(403, "this server answers to its own name only")
        path = inside(self.server.root, self.path)
        if path is None:
            return self._refuse(403, "outside of the folder that is served")
        if path == self.server.root:
            return self._send(200, TYPES[".html"], listing(path))
        sample = path.with_suffix("") if path.suffix == ".glb" and not path.exists() else path
        if sample.parent.name == "samples" and (sample / "meta.json").is_file():
            if sample != path:
                return self._send(200, TYPES[".glb"], sample_glb(sample))
            return self._send(200, TYPES[".html"], sample_page(sample))
        if not path.is_file() or path.suffix not in TYPES:
            return self._refuse(404, "no such result")
        return self._file(path)

    def _refuse(self, status: int, why: str) -> None:
        self._send(status, "text/plain; charset=utf-8", why)

    def _send(self, status: int, kind: str, body: str | bytes) -> None:
        data = body.encode() if isinstance(body, str) else body
        self._head(status, kind, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _file(self, path: Path) -> None:
        with path.open("rb") as file:
            self._head(200, TYPES[path.suffix], os.fstat(file.fileno()).st_size)
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def _head(self, status: int, kind: str, length: int) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(length), **HEADERS}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""
