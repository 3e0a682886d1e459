"""What a request is answered that cannot be done: one sentence, as JSON.

    {"error": {"code": "bad_input", "message": "cameras.json, camera 'a': R is not ...", "where":
     "cameras"}}

`code` is one of CODES and stays; `message` is the sentence that the command line prints; `where` is
the field of the request, "" for all of it.
"""

CODES = {  # code -> HTTP status
    "bad_input": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "too_large": 413,
    "too_many_requests": 429,
    "internal": 500,
    "unavailable": 503,
}


class Refused(ValueError):
    """A request that is not done.

    Args:
      code: of CODES.
      message: wanted, came, where.
      where: the field of the request.
    """

    def __init__(self, code: str, message: str, where: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.where = code, message, where

    @property
    def status(self) -> int:
        """Of HTTP."""
        return CODES[self.code]

    def body(self) -> dict[str, dict[str, str]]:
        """The JSON of the answer."""
        return {"error": {"code": self.code, "message": self.message, "where": self.where}}
