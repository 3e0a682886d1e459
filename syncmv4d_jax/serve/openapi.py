"""The OpenAPI 3.1 document of the server, with the limits and switches that it has."""

from typing import Any

import syncmv4d_jax
from syncmv4d_jax.data import surfaces
from syncmv4d_jax.data.sources import mesh_sequences
from syncmv4d_jax.serve import errors, jobs, meshes, requests

ID: dict[str, Any] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "of a job",
    "schema": {"type": "string", "pattern": f"^{jobs.ID.pattern}$"},
}
FILE = {
    "name": "file",
    "in": "path",
    "required": True,
    "description": "a name of the job's `files`",
    "schema": {"type": "string"},
}


def document(wants: requests.Wants, own: Any) -> dict[str, Any]:
    """Returns the document.

    Args:
      own: the application's `Limits`.
    """
    one = "/v1/videos/{id}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Synchronized videos and 4D motion",
            "version": syncmv4d_jax.__version__,
            "description": "Jobs are on disk before they are acknowledged, and made one by one.",
        },
        "paths": {
            "/v1": {"get": _does("about", "What the task wants, and the limits", "Any")},
            "/v1/session": {
                "post": {
                    **_does("enter", "The cookie for the token", "Any", "unauthorized"),
                    "requestBody": _json({"$ref": "#/components/schemas/Token"}),
                    "security": [],
                }
            },
            "/v1/videos": {
                "get": _does("list", "The newest jobs", "Jobs"),
                "post": {
                    **_does("submit", "A new job", "Job", "too_large", "too_many_requests",
                            "unavailable", status="202"),
                    "requestBody": {"required": True, "content": {
                        "multipart/form-data": {"schema": _form(wants, own)}}},
                },
            },
            **(_look(wants, own) if wants.meshes or wants.depth else {}),
            **(_path(wants) if wants.paths else {}),
            one: {
                "parameters": [ID],
                "get": _does("show", "A job", "Job", "not_found"),
                "delete": _does("remove", "Stops a job and removes it", "", "not_found",
                                status="204"),
            },
            f"{one}/cancel": {
                "parameters": [ID],
                "post": _does("cancel", "Stops a job", "Job", "not_found", "conflict"),
            },
            f"{one}/events": {
                "parameters": [ID],
                "get": _does("events", "The job as JSON, each time that it changes, until it ends",
                             "", "not_found", kind="text/event-stream"),
            },
            f"{one}/content/{{file}}": {
                "parameters": [ID, FILE],
                "get": _does("content", "A file of a job", "", "not_found",
                             kind="application/octet-stream"),
            },
            "/healthz": {
                "get": {**_does("health", "Whether jobs can be made", "Any"), "security": []}
            },
            "/metrics": {"get": _does("metrics", "Numbers for Prometheus", "", kind="text/plain")},
        },
        "components": {"schemas": _schemas(), "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }  # fmt: skip


def _look(wants: requests.Wants, own: Any) -> dict[str, Any]:
    """Where files of meshes and depth are shown."""
    words = "What is in meshes or depth, to be drawn; nothing is kept"
    form = {**_form(wants, own), "required": []}
    return {
        "/v1/looks": {
            "post": {
                **_does("look", words, "Any", "too_large", "too_many_requests"),
                "requestBody": {"required": True, "content": {
                    "multipart/form-data": {"schema": form}}},
            },
        },
    }  # fmt: skip


def _path(wants: requests.Wants) -> dict[str, Any]:
    """Where named camera paths are told."""
    number, names = r"-?\d+(\.\d+)?", "|".join(row["name"] for row in wants.paths)
    path = _asked("camera_path", "a name, its amount behind a colon", f"^({names})(:{number})?$")
    pivot = _asked("pivot", "x,y,z: what it turns about, metres", f"^{number},{number},{number}$")
    words = "Where a named camera path leads: eyes [n 3], metres"
    return {"/v1/path": {"get": {**_does("path", words, "Any"), "parameters": [path, pivot]}}}


def _asked(name: str, text: str, pattern: str) -> dict[str, Any]:
    """A parameter of a query."""
    return {"name": name, "in": "query", "required": True, "description": text,
            "schema": {"type": "string", "pattern": pattern}}  # fmt: skip


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _does(
    name: str, text: str, schema: str, *refused: str, status: str = "200", kind: str = ""
) -> dict[str, Any]:
    """An operation: what it answers, and the codes that it may refuse with."""
    good: dict[str, Any] = {"description": text}
    if schema:
        reference = {"$ref": f"#/components/schemas/{schema}"}
        good["content"] = {"application/json": {"schema": reference}}
    elif kind:
        good["content"] = {kind: {"schema": {"type": "string"}}}
    answers = {status: good}
    for code in ("bad_input", *refused):
        reference = {"$ref": "#/components/schemas/Error"}
        answers[str(errors.CODES[code])] = {
            "description": code,
            "content": {"application/json": {"schema": reference}},
        }
    return {"operationId": name, "summary": text, "responses": answers}


def _form(wants: requests.Wants, own: Any) -> dict[str, Any]:
    def number(kind: str, least: float, most: float, default: float) -> dict[str, Any]:
        return {"type": kind, "minimum": least, "maximum": most, "default": default}

    required = ["prompt", *(["images", "cameras"] if wants.cameras else [])]
    if wants.depth:
        required.append("images")
    required += [kind for kind in wants.files if kind != "images"]
    switches = {
        row["name"]: {
            "type": "boolean" if isinstance(row["least"], bool) else "integer",
            "description": row["text"],
            "default": row["value"],
        }
        for row in wants.switches
    }
    return {
        "type": "object",
        "required": required,
        "properties": {
            "prompt": {"type": "string", "maxLength": requests.WORDS, "pattern": r"\S"},
            "negative_prompt": {"type": "string", "maxLength": requests.WORDS,
                                "default": wants.negative_prompt},
            "images": {
                "type": "array",
                "maxItems": own.images,
                "items": {"type": "string", "format": "binary"},
                "description": f"{wants.views if wants.cameras else 1} pictures, named like their "
                f"cameras or in their order, of at most {own.pixels} pixels each",
            },
            "cameras": {"type": "string", "contentMediaType": "application/json",
                        "description": "cameras.json: {camera: {K, R, T, imgSize}}"},
            "num_inference_steps": number("integer", 1, requests.STEPS, wants.steps),
            "guidance_scale": number("number", 0, requests.GUIDANCE, wants.guidance),
            "seed": number("integer", 0, requests.SEED, 0),
            "num_videos": number("integer", 1, requests.VIDEOS, 1)
            | {"description": "a job for each of the seeds seed, seed + 1, ..."},
            "best_of": number("integer", 1, requests.DRAWS if wants.compares else 1, 1)
            | {"description": "draws, of which the one whose views agree best is kept"},
            "switches": {"type": "string", "contentMediaType": "application/json",
                         "contentSchema": {"type": "object", "properties": switches}},
            "preview": {"type": "boolean", "default": wants.previews},
            "inputs_of": {**ID["schema"],
                          "description": "a job whose files and cameras are taken, instead"},
            **(_meshes(own) if wants.meshes else {}),
            **(_depth(wants) if wants.depth else {}),
        },
        "additionalProperties": False,
    }  # fmt: skip


def _meshes(own: Any) -> dict[str, Any]:
    """Fields of a task that follows meshes."""
    rate, unit = ({"type": "number", "minimum": low, "maximum": high}
                  for low, high in (requests.RATE, requests.UNIT))  # fmt: skip
    return {
        "meshes": {
            "type": "array", "maxItems": own.images,
            "items": {"type": "string", "format": "binary"},
            "description": "meshes that move: .glb, .pc2 or .mdd with the .obj of the same name, "
            "name_000000.obj, ..., or a .zip of these; at most "
            f"{meshes.VERTICES} vertices in all frames",
        },
        "fps": rate | {"default": 30.0, "description": "frames a second to read of them"},
        "unit": unit | {"default": 1.0, "description": "metres of a unit of theirs"},
        "up": {"enum": ["", *mesh_sequences.UPS], "default": "",
               "description": "the axis that points up; empty is y of glTF, z of others"},
        "labels": {"type": "string", "contentMediaType": "application/json",
                   "contentSchema": {"type": "object", "additionalProperties": {
                       "enum": list(surfaces.LABELS)}},
                   "description": "what the meshes are, where their names do not tell"},
    }  # fmt: skip


def _depth(wants: requests.Wants) -> dict[str, Any]:
    """Fields of a task that reads its image's depth."""
    low, high = requests.WIDE
    named = ", ".join(row["name"] for row in wants.paths) or "none here"
    return {
        "depth": {"type": "string", "format": "binary",
                  "description": ".npz with depth [h w], metres, and intrinsics [3 3]; or .npy"},
        "field_of_view": {"type": "number", "minimum": low, "maximum": high,
                          "description": "degrees across the image, where the file has no lens"},
        "camera_path": {"type": "string",
                        "description": f"{named}, with an amount behind a colon; or the JSON of a "
                        "camera_path.json (docs/more4d.md)"},
    }  # fmt: skip


def _schemas() -> dict[str, Any]:
    error = {
        "type": "object",
        "required": ["code", "message", "where"],
        "properties": {
            "code": {"enum": sorted(errors.CODES)},
            "message": {"type": "string", "description": "what was wanted, what came, where"},
            "where": {"type": "string", "description": "the field, empty for the whole request"},
        },
    }
    job = {
        "type": "object",
        "required": ["id", "state", "position", "request", "cameras", "progress", "error"],
        "properties": {
            "id": {"type": "string"},
            "state": {"enum": list(jobs.STATES)},
            "position": {"type": "integer", "description": "in the queue, 0 outside of it"},
            "created": {"type": "number"},
            "started": {"type": "number"},
            "ended": {"type": "number"},
            "request": {"type": "object"},
            "cameras": {"type": "array", "items": {"type": "string"}},
            "others": {"type": "array", "items": {"type": "string"},
                       "description": "in the answer to a request of num_videos: its other jobs"},
            "progress": {"type": "object", "properties": {
                "phase": {"type": "string"}, "done": {"type": "integer"},
                "steps": {"type": "integer"}, "seconds": {"type": "number"},
                "eta_seconds": {"type": ["number", "null"]},
                "compile_seconds": {"type": ["number", "null"]}}},
            "error": {"oneOf": [{"$ref": "#/components/schemas/Refusal"}, {"type": "null"}]},
            "files": {"type": "object", "additionalProperties": {
                "type": "object", "properties": {"bytes": {"type": "integer"},
                                                 "url": {"type": "string"}}}},
        },
    }  # fmt: skip
    return {
        "Any": {"type": "object"},
        "Token": {"type": "object", "required": ["token"],
                  "properties": {"token": {"type": "string"}}},
        "Refusal": error,
        "Error": {"type": "object", "required": ["error"],
                  "properties": {"error": {"$ref": "#/components/schemas/Refusal"}}},
        "Job": job,
        "Jobs": {"type": "object", "properties": {
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}}},
    }  # fmt: skip
