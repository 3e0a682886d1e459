"""A form of a request (multipart/form-data) as texts and files."""

from starlette.datastructures import UploadFile
from starlette.requests import Request

from syncmv4d_jax.serve import requests
from syncmv4d_jax.serve.errors import Refused

TEXT = 2**20  # bytes of a field, at most
File = tuple[str, bytes]  # what it is called, its content


async def read(
    request: Request, wants: requests.Wants, *, each: int
) -> tuple[dict[str, str], dict[str, list[File]]]:
    """Reads all of it: {field: text} and {field: files}, of `wants.files`.

    Args:
      each: how many files there may be of one field.

    Raises:
      Refused: a form that is damaged or ends early, a field twice, more or larger parts than may
        be, or no form at all.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused("bad_input", "wanted a form, multipart/form-data")
    most = {"max_files": each * len(wants.files) + 1, "max_fields": len(wants.fields) + 1}
    async with request.form(**most, max_part_size=TEXT) as form:
        if not request.scope["tail"][0].rstrip(b"\r\n").endswith(b"--"):
            raise Refused("bad_input", "the request ends before its form does")
        fields: dict[str, str] = {}
        files: dict[str, list[File]] = {kind: [] for kind in wants.files}
        for name, value in form.multi_items():
            where = name[:40]
            if name in files and isinstance(value, UploadFile):
                files[name].append((value.filename or "", await value.read()))
                if len(files[name]) > each:
                    raise Refused("bad_input", f"{name}: wanted at most {each} files", name)
                continue
            if name in files:
                raise Refused("bad_input", f"{name}: wanted files, got a text", name)
            if name in fields:
                raise Refused("bad_input", f"the field {where!r} twice", where)
            if isinstance(value, str):
                fields[name] = value
            elif name in ("cameras", "camera_path"):
                fields[name] = _text(await value.read(), where)
            else:
                raise Refused("bad_input", f"{where}: wanted text, got a file", where)
    return fields, files


def _text(data: bytes, name: str) -> str:
    if len(data) > TEXT:
        raise Refused("too_large", f"{name}: wanted a text of at most 1 MiB", name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("bad_input", f"{name}: wanted a text in UTF-8", name) from error
