"""The service config: what it may say, what is wrong with it in the C core's words, and retries."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvrpc.grpc.messages import UNLIMITED
from hvrpc.grpc.service_config import (
    MethodConfig,
    Retrying,
    RetryPolicy,
    ServiceConfig,
    Throttle,
)
from hvrpc.grpc.status import StatusError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

RETRY: dict[str, Any] = {
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
POLICY = RetryPolicy(3, 0.1, 1.0, 2.0, frozenset((UNAVAILABLE,)))


def of(tree: Any) -> ServiceConfig:
    return ServiceConfig.of(json.dumps(tree))


def problem(text: str) -> str:
    with pytest.raises(StatusError) as caught:
        ServiceConfig.of(text)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.details


def only(**config: Any) -> MethodConfig:
    return of({"methodConfig": [{"name": [{"service": "a"}], **config}]}).method("/a/b")


# --- What it says -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "{}", '{"unknown": 1}', '{"methodConfig": null}'])
def test_nothing_said(text: str | None) -> None:
    config = ServiceConfig.of(text)
    assert config.method("/a/b") == MethodConfig()
    assert config.throttle is None


def test_the_closest_name_counts() -> None:
    config = of(
        {
            "methodConfig": [
                {"name": [{}], "timeout": "1s"},
                {"name": [{"service": "a"}, {"service": "c", "method": ""}], "timeout": "2s"},
                {"name": [{"service": "a", "method": "b"}], "timeout": "3s"},
            ]
        }
    )
    found = [config.method(path).timeout for path in ("/a/b", "/a/x", "/c/d", "/x/y")]
    assert found == [3, 2, 2, 1]


def test_all_fields() -> None:
    config = only(
        timeout="1.5s",
        waitForReady=True,
        maxRequestMessageBytes=1,
        maxResponseMessageBytes="2",
        retryPolicy=RETRY,
        unknown=5,
    )
    assert config == MethodConfig(1.5, True, POLICY, 1, 2)


def test_limits_are_none_unless_said() -> None:
    assert only().most_sent == only().most_received == UNLIMITED


def test_numbers_may_be_texts_and_attempts_end_at_five() -> None:
    retry = only(retryPolicy={**RETRY, "maxAttempts": "10", "backoffMultiplier": "1.5"}).retry
    assert retry is not None
    assert (retry.attempts, retry.multiplier) == (5, 1.5)


def test_throttling() -> None:
    throttle = of({"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.5}}).throttle
    assert throttle == Throttle(10, 0.5)


# --- What is wrong with it ----------------------------------------------------------------------


def test_no_json() -> None:
    assert problem("{bad") == "JSON parsing failed: [JSON parse error at index 1]"


def listed(*problems: str) -> str:
    return f"errors validating service config: [{'; '.join(problems)}]"


def field(where: str, what: str) -> str:
    return f"field:{where} error:{what}"


@pytest.mark.parametrize(
    ("tree", "problems"),
    [
        ([], [field("", "is not an object")]),
        ({"methodConfig": {}}, [field("methodConfig", "is not an array")]),
        ({"methodConfig": [5]}, [field("methodConfig[0]", "is not an object")]),
        (
            {"methodConfig": [{"name": [{"service": 5}]}]},
            [field("methodConfig[0].name[0].service", "is not a string")],
        ),
        (
            {"methodConfig": [{"name": [{"method": "a"}]}]},
            [field("methodConfig[0].name[0]", "method name populated without service name")],
        ),
        (
            {"methodConfig": [{"name": [{"service": "a"}]}, {"name": [{"service": "a"}]}]},
            [field("methodConfig[1].name[0]", "multiple method configs for path /a/")],
        ),
        (
            {"methodConfig": [{"timeout": "abc"}]},
            [field("methodConfig[0].timeout", "Not a duration (no s suffix)")],
        ),
        (
            {"methodConfig": [{"timeout": "-1s"}]},
            [field("methodConfig[0].timeout", "seconds must be in the range [0, 315576000000]")],
        ),
        (
            {"methodConfig": [{"waitForReady": "x", "maxRequestMessageBytes": -1}]},
            [
                field(
                    "methodConfig[0].maxRequestMessageBytes",
                    "failed to parse non-negative number",
                ),
                field("methodConfig[0].waitForReady", "is not a boolean"),
            ],
        ),
        (
            {"methodConfig": [{"retryPolicy": {}}]},
            [
                field("methodConfig[0].retryPolicy.backoffMultiplier", "field not present"),
                field("methodConfig[0].retryPolicy.initialBackoff", "field not present"),
                field("methodConfig[0].retryPolicy.maxAttempts", "field not present"),
                field("methodConfig[0].retryPolicy.maxBackoff", "field not present"),
                field("methodConfig[0].retryPolicy.retryableStatusCodes", "must be non-empty"),
            ],
        ),
        (
            {"methodConfig": [{"retryPolicy": {**RETRY, "maxAttempts": 1}}]},
            [field("methodConfig[0].retryPolicy.maxAttempts", "must be at least 2")],
        ),
        (
            {
                "methodConfig": [
                    {
                        "retryPolicy": {
                            **RETRY,
                            "initialBackoff": "0s",
                            "retryableStatusCodes": ["FOO", 4],
                        }
                    }
                ]
            },
            [
                field("methodConfig[0].retryPolicy.initialBackoff", "must be greater than 0"),
                field("methodConfig[0].retryPolicy.retryableStatusCodes", "must be non-empty"),
                field(
                    "methodConfig[0].retryPolicy.retryableStatusCodes[0]",
                    "failed to parse status code",
                ),
                field("methodConfig[0].retryPolicy.retryableStatusCodes[1]", "is not a string"),
            ],
        ),
        (
            {"retryThrottling": {"maxTokens": 0}},
            [
                field("retryThrottling.maxTokens", "must be greater than 0"),
                field("retryThrottling.tokenRatio", "field not present"),
            ],
        ),
    ],
)
def test_problems_are_listed_with_their_places(tree: Any, problems: list[str]) -> None:
    assert problem(json.dumps(tree)) == listed(*problems)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*["methodConfig", "name", "service", "method", "timeout", "retryPolicy"], *RETRY]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_config_is_too_wrong_to_be_told_so(tree: Any) -> None:
    try:
        assert isinstance(of(tree), ServiceConfig)
    except StatusError as error:
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017


# --- Retries ------------------------------------------------------------------------------------


def middle() -> float:
    return 0.5


def test_waits_grow_until_the_attempts_are_used_up() -> None:
    policy = RetryPolicy(5, 0.1, 0.3, 2.0, frozenset((UNAVAILABLE,)))
    retrying = Retrying(policy, None, middle)
    waits = [retrying.ended(UNAVAILABLE) for _ in range(5)]
    assert waits == [pytest.approx(0.1), pytest.approx(0.2), 0.3, 0.3, None]
    assert retrying.attempts == 5


@given(st.floats(0, 1), st.integers(1, 4))
def test_chance_changes_a_wait_by_a_fifth_at_most(chance: float, attempt: int) -> None:
    straight = POLICY.wait(attempt, 0.5)
    assert straight * 0.799 <= POLICY.wait(attempt, chance) <= straight * 1.201


def test_a_huge_multiplier_does_no_harm() -> None:
    policy = RetryPolicy(5, 1.0, 10.0, 1e300, frozenset((UNAVAILABLE,)))
    with_end = RetryPolicy(5, 1.0, 10.0, 1e40, frozenset((UNAVAILABLE,)))
    assert policy.wait(2, 0.5) == with_end.wait(4, 0.5) == 10


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL])
def test_other_codes_are_final(code: grpc.StatusCode) -> None:
    assert Retrying(POLICY, None).ended(code) is None


def test_without_a_policy_every_end_is_final() -> None:
    assert Retrying(None, None).ended(UNAVAILABLE) is None


def test_the_server_says_when_to_come_back() -> None:
    policy = RetryPolicy(5, 0.1, 10, 2.0, frozenset((UNAVAILABLE,)))
    retrying = Retrying(policy, None, middle)
    assert retrying.ended(UNAVAILABLE) == pytest.approx(0.1)
    assert retrying.ended(UNAVAILABLE, "2500") == 2.5
    assert retrying.ended(UNAVAILABLE) == pytest.approx(0.1), "then the waits begin anew"


@pytest.mark.parametrize("pushback", ["-1", "soon", "", "1.5"])
def test_the_server_says_not_to_come_back(pushback: str) -> None:
    assert Retrying(POLICY, None).ended(UNAVAILABLE, pushback) is None


def test_retries_stop_while_most_calls_fail() -> None:
    throttle = Throttle(4, 0.5)
    policy = RetryPolicy(5, 0.1, 1, 2.0, frozenset((UNAVAILABLE,)))
    assert Retrying(policy, throttle).ended(UNAVAILABLE) is not None  # 3 tokens are left
    assert Retrying(policy, throttle).ended(UNAVAILABLE) is None  # 2, half
    for _ in range(3):
        Retrying(policy, throttle).ended(grpc.StatusCode.OK)
    assert throttle.tokens == 3.5
    assert Retrying(policy, throttle).ended(UNAVAILABLE) is not None


def test_tokens_have_bounds() -> None:
    throttle = Throttle(2, 1)
    for _ in range(5):
        throttle.failed()
    assert throttle.tokens == 0
    for _ in range(5):
        throttle.succeeded()
    assert throttle.tokens == 2
