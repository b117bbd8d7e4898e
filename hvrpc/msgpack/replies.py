"""What came back: a value, or one of the many shapes an error has in the real world.

    "text"                                    the only shape that every peer understands
    [type, "text"]                            Neovim, Arduino, tinyrpc, aiorpc (type: number or name)
    {"message": "text", "code": …, "data": …} ours, and others' maps
    "Code.Name" with data in the result       the Ruby and Java reference implementations
    anything else                             is data

An error is whatever is not nil: 0, "" and [] are errors too.
"""

from __future__ import annotations

from typing import Any, Final

from ..errors import CallError, HvrpcError, InvalidParams, MethodNotFound, RemoteError
from ..session.core import Call
from .core import INVALID_PARAMS, METHOD_NOT_FOUND
from .values import short_repr

_KINDS: Final[dict[Any, type[RemoteError]]] = {
    METHOD_NOT_FOUND: MethodNotFound,
    INVALID_PARAMS: InvalidParams,
}


def remote_error(error: Any, result: Any, *, method: str, address: str) -> RemoteError:
    """The exception for an error that the other side answered."""
    code: int | str | None = None
    data: Any = None
    text: str | None = None
    match error:
        case str() if result is not None:
            code, message, data = error, _message_in(result, error), result
        case str():
            message = error
        case [int() | str() as code, str() as message]:
            pass
        case {"message": str() as message}:
            code = error.get("code")
            if not isinstance(code, int | str):
                code = None
            data = error.get("data")
            found = error.get("traceback")
            text = found if isinstance(found, str) else None
        case _:
            message, data = f"the error is {short_repr(error)}", error
    return _KINDS.get(code, RemoteError)(
        message, code=code, data=data, remote_traceback=text, address=address, method=method
    )


def _message_in(result: Any, otherwise: str) -> str:
    first = result[0] if isinstance(result, list) and result else result
    return first if isinstance(first, str) else otherwise


def failure_of(call: Call, *, method: str, address: str) -> HvrpcError:
    """The exception for a call that has no value."""
    failure = call.failure
    if failure is None:
        return remote_error(call.error, call.value, method=method, address=address)
    if isinstance(failure, CallError):
        failure.method = failure.method or method
        failure.address = failure.address or address
    return failure
