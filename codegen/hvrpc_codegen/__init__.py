"""Tools that turn a `.proto` file into typed hvrpc clients and services.

    python -m hvrpc_codegen protos --out gen        the same as `hvrpc codegen`
    protoc --hvrpc_out=gen service.proto            the plugin alone, `protoc-gen-hvrpc`

Reading order: `records` (what is known of a file), `reading` (descriptors to records), `writing`
(records to text), then those that do I/O: `plugin`, `protoc` and `runner`.
"""
