"""The application: jobs over HTTP, and the page that uses it.

    GET    /                               the studio
    GET    /v1                             what the task wants, and the limits
    POST   /v1/videos                      a job: multipart, answered when it is on disk
    GET    /v1/videos                      the newest jobs
    GET    /v1/videos/{id}                 one
    POST   /v1/looks                       what is in meshes or depth, to be drawn; nothing is kept
    GET    /v1/path                        where a named camera path leads
    POST   /v1/videos/{id}/cancel          stops it and keeps what it was asked
    DELETE /v1/videos/{id}                 stops and removes it
    GET    /v1/videos/{id}/events          what happens to it, as server-sent events
    GET    /v1/videos/{id}/content/{file}  a file of it
    GET    /healthz  /metrics  /openapi.json

Names in a path are looked up among those that are there, never opened.
"""

import asyncio
import collections
import dataclasses
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from syncmv4d_jax.serve import (
    dispatch,
    files,
    forms,
    gate,
    inputs,
    jobs,
    limits,
    openapi,
    requests,
    routing,
    session,
)
from syncmv4d_jax.serve.errors import Refused

LISTED = 100  # newest jobs
STREAMS = 64  # of events at once
LOOK, BEAT = 0.2, 15.0  # seconds between two looks at a job, and two signs of life


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may have: bytes in all, files of a field, pixels of each image; jobs that
    wait; jobs a minute from one client."""

    bytes: int = 64 * 2**20
    images: int = 16
    pixels: int = 40_000_000
    waiting: int = 200
    per_minute: float = 60.0


class Studio:
    """The routes and what they share."""

    def __init__(
        self, dispatcher: dispatch.Dispatcher, wants: requests.Wants, own: Limits, secret: str
    ) -> None:
        """Args: secret: the token, "" for none."""
        self.dispatcher, self.store, self.wants = dispatcher, dispatcher.store, wants
        self.limits, self._door = own, session.Door(secret)
        self.answers: collections.Counter[tuple[str, int]] = collections.Counter()
        self._jobs_of = limits.Rate(own.per_minute, max(1, round(own.per_minute)))
        self._reader = inputs.Reader(wants, images=own.images, pixels=own.pixels)
        self._streams = 0

    def routes(self) -> list[Route]:
        """All of them."""
        one = "/v1/videos/{id}"
        return [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/v1", self.about),
            Route("/v1/session", self._door.enter, methods=["POST"]),
            Route("/v1/videos", self.submit, methods=["POST"]),
            Route("/v1/videos", self.list, methods=["GET"]),
            Route("/v1/looks", self.look, methods=["POST"]),
            Route("/v1/path", self.path),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.remove, methods=["DELETE"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/events", self.events),
            Route(f"{one}/content/{{file}}", self.content),
            Route("/healthz", self.health),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.document),
        ]

    # Pages.

    async def page(self, request: Request) -> Response:
        """The studio, or the page to enter the token."""
        return files.page("studio.html" if self._door.admits(request) else "enter.html")

    async def static(self, request: Request) -> Response:
        """A style sheet or a script."""
        return files.static(request.path_params["name"])

    async def about(self, request: Request) -> Response:
        """What the task wants."""
        del request
        own = dataclasses.asdict(self.limits) | {
            "steps": requests.STEPS, "guidance": requests.GUIDANCE, "seed": requests.SEED,
            "prompt": requests.WORDS, "num_videos": requests.VIDEOS, "best_of": requests.DRAWS,
        }  # fmt: skip
        return JSONResponse({"wants": dataclasses.asdict(self.wants), "limits": own})

    # Jobs.

    async def submit(self, request: Request) -> Response:
        """Takes a job; it is on disk when this is answered."""
        if self.dispatcher.broken:
            raise Refused("unavailable", self.dispatcher.broken)
        client, own = self._admit(request), self.limits
        fields, files = await forms.read(request, self.wants, each=own.images)
        asked = requests.parameters(fields, self.wants)
        every = [asked | {"seed": seed} for seed in requests.seeds(fields, asked["seed"])]
        if len(every) > 1 and (wait := self._jobs_of.take(client, len(every) - 1)):
            words = f"too many jobs: wait {wait:.0f} s, or ask for fewer videos"
            raise Refused("too_many_requests", words, "num_videos")
        incoming = self._incoming()
        try:
            names = await self._inputs(fields, files, incoming)
            made = await run_in_threadpool(self.store.add, every, names, incoming, most=own.waiting)
        finally:
            await run_in_threadpool(shutil.rmtree, incoming, ignore_errors=True)
        if not made:
            words = f"{own.waiting} jobs may wait, {len(self.store.waiting())} do: try again later"
            raise Refused("unavailable", words)
        where = {"Location": f"/v1/videos/{made[0].id}"}
        others = {"others": [job.id for job in made[1:]]}
        return JSONResponse(self._told(made[0]) | others, 202, where)

    async def _inputs(
        self, fields: Mapping[str, str], files: inputs.Files, folder: Path
    ) -> tuple[str, ...]:
        """Lays the job's inputs down in `folder`; returns the views' names."""
        if "inputs_of" not in fields:
            return await self._reader.job(fields, files, folder)
        other = self.store.get(fields["inputs_of"])
        if other is None:
            raise Refused("bad_input", "inputs_of: there is no such job", "inputs_of")
        if any(files.values()) or set(requests.INPUTS) & set(fields):
            words = "inputs_of: the other job has its files and cameras: wanted no others"
            raise Refused("bad_input", words, "inputs_of")
        source = self.store.folder(other) / "inputs"
        await run_in_threadpool(shutil.copytree, source, folder)
        return other.cameras

    async def look(self, request: Request) -> Response:
        """What the page draws of meshes or depth before a job is sent."""
        self._admit(request)
        fields, files = await forms.read(request, self.wants, each=self.limits.images)
        incoming = self._incoming()
        try:
            return JSONResponse(await self._reader.look(fields, files, incoming))
        finally:
            await run_in_threadpool(shutil.rmtree, incoming, ignore_errors=True)

    async def path(self, request: Request) -> Response:
        """Where a named camera path leads."""
        told = request.query_params
        text, pivot = told.get("camera_path", ""), told.get("pivot", "")
        return JSONResponse({"eyes": requests.eyes(text, pivot, self.wants)})

    def _admit(self, request: Request) -> str:
        """The client, where it may send files now.

        Raises:
          Refused: too large, or too often.
        """
        limits.claimed(request.headers, self.limits.bytes)
        client = request.client.host if request.client else ""
        if wait := self._jobs_of.take(client):
            raise Refused("too_many_requests", f"too many jobs: wait {wait:.0f} s")
        return client

    def _incoming(self) -> Path:
        return self.store.root / f".incoming-{secrets.token_hex(8)}"

    async def list(self, request: Request) -> Response:
        """The newest jobs."""
        del request
        found = await run_in_threadpool(self.store.all)
        return JSONResponse({"data": [self._told(job) for job in found[:LISTED]]})

    async def show(self, request: Request) -> Response:
        """One job."""
        return JSONResponse(await run_in_threadpool(self._told, self._job(request), True))

    async def cancel(self, request: Request) -> Response:
        """Stops it."""
        job = self._job(request)
        if job.state in jobs.ENDED:
            raise Refused("conflict", f"this job has ended: it is {job.state}")
        return JSONResponse(self._told(await run_in_threadpool(self.dispatcher.cancel, job)))

    async def remove(self, request: Request) -> Response:
        """Stops and removes it."""
        await run_in_threadpool(self.dispatcher.remove, self._job(request))
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """What happens to it."""
        job = self._job(request)
        if self._streams >= STREAMS:
            raise Refused("unavailable", f"{STREAMS} streams of events are open: ask for the job")
        kind = "text/event-stream"
        return StreamingResponse(self._stream(job.id), 200, {"Cache-Control": "no-store"}, kind)

    async def _stream(self, name: str) -> AsyncIterator[str]:
        self._streams += 1
        try:
            last, said = None, time.monotonic()
            while (job := self.store.get(name)) is not None:
                key = self.dispatcher.version(name), self.store.position(job)
                if key != last:
                    last, said = key, time.monotonic()
                    told = await run_in_threadpool(self._told, job, True)
                    yield f"data: {json.dumps(told)}\n\n"
                    if job.state in jobs.ENDED:
                        return
                elif time.monotonic() - said > BEAT:
                    said = time.monotonic()
                    yield ": alive\n\n"
                await asyncio.sleep(LOOK)
            yield "event: gone\ndata: {}\n\n"
        finally:
            self._streams -= 1

    async def content(self, request: Request) -> Response:
        """A file of it."""
        name = request.path_params["file"]
        found = await run_in_threadpool(self.store.files, self._job(request))
        if name not in found:
            raise Refused("not_found", f"this job has no such file; it has {sorted(found)}")
        return await files.response(found[name])

    def _job(self, request: Request) -> jobs.Job:
        job = self.store.get(request.path_params["id"])
        if job is None:
            raise Refused("not_found", "there is no such job; it may have expired", "id")
        return job

    def _told(self, job: jobs.Job, whole: bool = False) -> dict[str, Any]:
        found = {
            "id": job.id,
            "state": job.state,
            "position": self.store.position(job),
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "request": dict(job.request),
            "cameras": list(job.cameras),
            "progress": self.dispatcher.progress(job.id),
            "error": dict(job.error) or None,
        }
        if whole:
            where = f"/v1/videos/{job.id}/content"
            found["files"] = {
                name: {"bytes": size, "url": f"{where}/{name}"}
                for name, size in self.store.sizes(job).items()
            }
        return found

    # The server itself.

    async def health(self, request: Request) -> Response:
        """Whether jobs can be made."""
        del request
        if self.dispatcher.broken:
            return JSONResponse({"status": "broken", "message": self.dispatcher.broken}, 503)
        return JSONResponse({"status": "ready" if self.dispatcher.ready else "loading"})

    async def metrics(self, request: Request) -> Response:
        """Numbers in Prometheus' text form."""
        del request
        states = collections.Counter(job.state for job in self.store.all())
        own = self.dispatcher
        rows: list[tuple[str, str, str, dict[str, float]]] = [
            ("jobs", "gauge", "Jobs on disk", {f'state="{s}"': states[s] for s in jobs.STATES}),
            ("jobs_ended_total", "counter", "Jobs that ended since the server began",
             {f'state="{s}"': own.counts[s] for s in jobs.ENDED}),
            ("job_seconds_total", "counter", "Seconds spent on them", {"": round(own.busy, 3)}),
            ("worker_ready", "gauge", "Whether the worker has its weights", {"": int(own.ready)}),
            ("jobs_running", "gauge", "Jobs that run", {"": own.running()}),
            ("event_streams", "gauge", "Open streams of events", {"": self._streams}),
            ("answers_total", "counter", "Answers",
             {f'method="{m}",status="{s}"': n for (m, s), n in sorted(self.answers.items())}),
        ]  # fmt: skip
        lines = []
        for name, kind, text, values in rows:
            lines += [f"# HELP studio_{name} {text}.", f"# TYPE studio_{name} {kind}"]
            lines += [f"studio_{name}{{{k}}} {x}" if k else f"studio_{name} {x}"
                      for k, x in values.items()]  # fmt: skip
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        del request
        return JSONResponse(openapi.document(self.wants, self.limits))


class Counted:
    """ASGI: counts answers."""

    def __init__(self, application: ASGIApp, studio: Studio) -> None:
        self._application, self._studio = application, studio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._studio.answers[method, message["status"]] += 1
            await send(message)

        await self._application(scope, receive, counted)


METHODS = ("GET", "HEAD", "POST", "DELETE")


def application(studio: Studio, *, host: str, secret: str) -> ASGIApp:
    """The whole, with its gate around it."""
    inner = Counted(routing.routed(studio.routes()), studio)
    return gate.Gate(limits.Body(inner, studio.limits.bytes), host, secret)
