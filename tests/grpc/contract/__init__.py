"""What gRPC promises its users, written once in terms of grpcio's own API.

    engines   who can carry it: grpcio's C core, which is right by definition, and ours
    kinds     the four kinds of call behind one face, for what all of them have in common
    bench     servers and channels for a test, ended after it
    test_*    the contract, for blocking callers
    aio/      the same, for `grpc.aio`

A test that fails on grpcio is wrong. Where ours differs on purpose, `docs/reference/grpc-differences.md`
says so, and the test asks the engine (`Engine`) instead of naming it.
"""
