"""Tests of `hvrpc.testing`."""
