"""What a peer may do to us before its connection is ended, each limit with its reason.

Sizes are checked before memory is spent. Floods are counted without a clock: every frame that
costs us work and brings nothing takes one from an allowance, and useful work gives it back, up to
the allowance's size. So a connection may live for ever, and only a peer that does nothing but
disturb runs out. Useful work is: DATA that was carried, streams that ended in the regular way, and
answers to PINGs of ours (they stand for time: we decide how often we ask).

Exceeding a limit ends one connection, with ENHANCE_YOUR_CALM unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ErrorCode, RemoteProtocolError

# An answered PING of ours means that some seconds passed in peace.
WORK_OF_A_PONG = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """How much nonsense one connection may send. The defaults are far from what honest peers do."""

    # One compressed header block, CONTINUATIONs included. Blocks cannot be split by stream or
    # skipped (the HPACK state would be lost), so they must be held whole.
    header_block_bytes: int = 64 * 1024

    # Factor by which a *decoded* header list may exceed what our SETTINGS allow. Up to it only the
    # stream is refused; beyond it decoding stops, which no HPACK state survives (HPACK bomb: one
    # byte of the block can stand for 4 KiB of headers).
    header_list_excess: int = 4

    # CONTINUATION frames of one block: a block of legal size needs four with the default frame
    # size. Without this limit empty CONTINUATIONs go on for ever (CVE-2024-27316 and its family).
    continuation_frames: int = 32

    # A frame which is neither DATA nor part of a header block. The default frame size of HTTP/2;
    # only GOAWAY and SETTINGS can be long at all, and honest ones are far below.
    control_frame_bytes: int = 16 * 1024

    # Streams that the peer opened and reset ("rapid reset", CVE-2023-44487), made us reset by
    # errors of its own (CVE-2025-8671), or opened beyond the concurrency limit. Opening costs us
    # a call of a handler, resetting costs the peer 13 bytes. Only streams that end in the regular
    # way give this allowance back: DATA would be too cheap.
    resets: int = 1000

    # PINGs to answer. Generous, because the keepalive of an idle peer cannot be told from a flood
    # without a clock: one in 10 s, on a connection where nothing else happens and on which we send
    # no PINGs ourselves, lasts for 27 hours.
    pings: int = 10_000

    # SETTINGS to apply and acknowledge: each may touch every open stream. Some peers tune their
    # windows by SETTINGS while data flows, which gives the allowance back.
    settings: int = 100

    # DATA frames without content that end nothing.
    empty_data: int = 1000

    # WINDOW_UPDATEs: honest peers send at most one or two per DATA frame they got.
    window_updates: int = 10_000

    # Frames that are ignored: PRIORITY, unknown types, frames for streams that ended meanwhile,
    # repeated GOAWAY, 1xx responses. DATA that crosses our RST_STREAM does not count as long as it
    # fits the window that the stream had: a cancelled stream of small messages has thousands.
    ignored_frames: int = 10_000

    # Answers (PING and SETTINGS acknowledgements, RST_STREAM) that wait in `outgoing` because the
    # peer does not read. This bounds memory, where the allowances bound work.
    unsent_replies: int = 1000

    # How many reset streams are remembered, to tell frames that crossed our RST_STREAM from wrong
    # ones. Frames for streams older than the oldest remembered one are ignored.
    remembered_resets: int = 1000


class Allowance:
    """How many more frames of one useless kind are taken; useful work gives back."""

    __slots__ = ("left", "most", "seen", "what")

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.left = most
        self.seen = 0  # the amount of useful work at the last spending
        self.what = what

    def earn(self, count: int) -> None:
        """Give back what is not the peer's doing."""
        self.left = min(self.most, self.left + count)

    def spend(self, work: int) -> None:
        """Take one, after giving back what `work` (a total that only grows) has earned."""
        self.left = min(self.most, self.left + work - self.seen) - 1
        self.seen = work
        if self.left < 0:
            raise RemoteProtocolError(
                ErrorCode.ENHANCE_YOUR_CALM, f"the peer sent more than {self.most} {self.what}"
            )
