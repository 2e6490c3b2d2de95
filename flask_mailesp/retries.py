"""When a request that failed may be made again, and how long to wait before.

Only where asking twice cannot deliver twice: the request was certainly *not sent*, the ESP
said *not now* (429), or the ESP recognises a repeated request by its idempotency key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .exceptions import MailESPError, NotSentError, RateLimitedError, SendUncertainError
from .records import field, record, replace

FIRST_PAUSE = 0.25  # seconds; doubled for each further attempt
PATIENCE = 60.0  # seconds that nobody waits for: the background job of send_many
_LEAST = 0.05  # seconds; what remains of a deadline is not worth a request below this


@record(frozen=True)
class Retries:
    """How often and how long one request is tried.

    ``attempts`` counts the first one. ``max_wait`` (seconds) is the longest pause before
    another attempt, and the longest wait for a rate limit: who would have to wait longer is
    told so instead. ``deadline`` (seconds) is when the last attempt must have ended,
    measured from the start of the send. In the ``background``, nobody waits for the answer.
    """

    attempts: int = 1
    max_wait: float = 1.0
    deadline: float = 60.0
    first_pause: float = FIRST_PAUSE
    background: bool = False
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def pause(self, error: MailESPError, attempt: int, *, keyed: bool) -> float | None:
        """Return how long to wait after failed attempt number ``attempt``; None to give up.

        ``keyed`` tells that the request carries an idempotency key the ESP understands.
        """
        if attempt >= self.attempts or not may_repeat(error, keyed=keyed):
            return None
        asked = getattr(error, "retry_after", None) or 0.0
        if asked > self.max_wait:
            return None
        return max(asked, min(self.max_wait, jittered(self.first_pause * 2 ** (attempt - 1))))

    def time_left(self, started: float) -> float | None:
        """Return the seconds until the deadline, None if too few for another request."""
        left = self.deadline - (time.monotonic() - started)
        return left if left > _LEAST else None


NO_RETRIES = Retries()


def may_repeat(error: MailESPError, *, keyed: bool) -> bool:
    """Tell whether making the request again could neither deliver twice nor be in vain."""
    if isinstance(error, NotSentError):
        return error.may_pass
    return isinstance(error, RateLimitedError) or (keyed and isinstance(error, SendUncertainError))


def jittered(seconds: float) -> float:
    """Return between half and all of it, so that clients that failed together part."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret


def patient(retries: Retries) -> Retries:
    """Return the policy for work in the background, which may wait longer."""
    return replace(
        retries,
        background=True,
        max_wait=max(retries.max_wait, PATIENCE),
        deadline=max(retries.deadline, 2 * PATIENCE),
    )
