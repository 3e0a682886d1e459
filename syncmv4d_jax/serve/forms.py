"""A form of a request (multipart/form-data) as texts and pictures."""

from starlette.datastructures import UploadFile
from starlette.requests import Request

from syncmv4d_jax.serve import requests
from syncmv4d_jax.serve.errors import Refused

TEXT = 2**20  # bytes of a field, at most
File = tuple[str, bytes]  # what it is called, its content


async def read(request: Request, *, images: int) -> tuple[dict[str, str], list[File]]:
    """Reads all of it: {field: text} and the files of the field `images`.

    Args:
      images: how many there may be.

    Raises:
      Refused: a form that is damaged or ends early, a field twice, more or larger parts than may
        be, or no form at all.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused("bad_input", "wanted a form, multipart/form-data")
    most = {"max_files": images + 1, "max_fields": len(requests.FIELDS) + 1}
    async with request.form(**most, max_part_size=TEXT) as form:
        if not request.scope["tail"][0].rstrip(b"\r\n").endswith(b"--"):
            raise Refused("bad_input", "the request ends before its form does")
        fields: dict[str, str] = {}
        files: list[File] = []
        for name, value in form.multi_items():
            if name == "images" and isinstance(value, UploadFile):
                files.append((value.filename or "", await value.read()))
                continue
            where = name[:40]
            if name in fields:
                raise Refused("bad_input", f"the field {where!r} twice", where)
            if isinstance(value, str):
                fields[name] = value
            elif name == "cameras":
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
