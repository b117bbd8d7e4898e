"""The contract for `grpc.aio`: the same promises, where they look different to asyncio's users."""
