"""Our gRPC engine and others understand each other.

The cases are those that the gRPC project publishes for this (`doc/interop-test-descriptions.md` in its
repository), by their names there:

    testing.proto      the service they need
    service.py         that service in Python, for any engine
    cases.py           what a caller does, for any engine
    aio_cases.py       the same with asyncio
    grpc_js_*.js       service and caller of another implementation, grpc-js
"""
