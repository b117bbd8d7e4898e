"""Tests of `hvrpc.sockets`. `contract` is what every family must do, written once."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")
