"""What a gRPC error says besides its status: `google.rpc.Status`, in its trailing metadata.

Reading it takes grpcio-status, which whoever sends such errors has installed; callers need not have it.
"""

from __future__ import annotations

import json
from typing import Any, Final

KEY: Final = "grpc-status-details-bin"


def details_of(error: Any) -> list[str]:
    """A line for each of the details of an error; none if it has none."""
    trailers = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    if not any(key == KEY for key, _ in trailers or ()):
        return []
    try:
        from google.rpc import error_details_pb2  # noqa: F401 their types become known
        from grpc_status import rpc_status
    except ImportError:
        return ["there are details, which pip install grpcio-status makes readable"]
    try:
        status = rpc_status.from_call(error)
    except Exception as fault:  # what a server sends there need not be right
        return [f"its details cannot be read: {fault}"]
    return [_line(each) for each in status.details] if status is not None else []


def _line(detail: Any) -> str:
    """A detail as JSON if its type is known here, else its name."""
    from google.protobuf import descriptor_pool, json_format, message_factory

    name = detail.type_url.rpartition("/")[2]
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        message = message_factory.GetMessageClass(descriptor).FromString(detail.value)
    except Exception:  # an unknown type, or bytes that are not of it
        return f"{name}, {len(detail.value)} bytes"
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return f"{name.removeprefix('google.rpc.')} {json.dumps(fields, ensure_ascii=False)}"
