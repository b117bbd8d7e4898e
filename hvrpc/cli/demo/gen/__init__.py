"""Made of `protos/demo.proto` by `run.py protos`."""
