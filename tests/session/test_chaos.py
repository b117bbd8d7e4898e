"""Nothing is carried out twice, whatever happens to the line: the short form of `chaos`."""

from __future__ import annotations

import os
import random
from collections import Counter

from hvrpc import Outcome

from .chaos import RESULT, Story, play
from .sides import Pair

SECONDS = 1.0
SEED = int(os.environ.get("HVRPC_CHAOS_SEED", random.randrange(10**6)))
"""Another one for each run; to repeat one, set HVRPC_CHAOS_SEED to what it printed."""


def test_calls_end_truthfully_however_the_line_breaks(pair: Pair) -> None:
    """Hundreds of calls, cut at random bytes in both directions; see `chaos` for the long form."""
    print(f"HVRPC_CHAOS_SEED={SEED}")
    story = play(pair, SECONDS, SEED, results=50, connections=3)
    print(story)
    assert story.lies() == []
    ends = Counter(story.fates.values())
    assert ends[RESULT] > 50, "the line was so bad that it proves little"
    assert story.connections > 3, "the line was so good that it proves little"


def test_lies_would_be_found() -> None:
    """The judge is worth something only if it can say no."""
    story = Story(
        seed=0,
        fates={1: RESULT, 2: RESULT, 3: Outcome.NOT_SENT, 4: Outcome.MAY_HAVE_RUN, 5: RESULT},
        marked={5},
        executed=[1, 1, 3, 4, 4, 5, 5, 6],
    )
    found = "\n".join(story.lies())
    for number in (1, 2, 3, 4, 6):
        assert f"call {number} " in found
    assert "call 5" not in found
    assert Story(seed=0, fates={1: RESULT, 2: Outcome.MAY_HAVE_RUN}, executed=[1]).lies() == []
