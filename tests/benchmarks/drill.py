"""The outage drill: one of two providers dies in the middle of a run and comes back.

``python -m tests.benchmarks.drill [messages]`` prints what became of them and exits with 1 if
one was lost, sent twice or reported as what it was not, or if nothing came back. It is held
twice: with a first provider that is sent to one by one, and with one that takes batches, where
a connection that drops leaves a whole batch uncertain.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from flask import Flask

from flask_mailesp import MailESP, Message, SendResult
from flask_mailesp.exceptions import SendUncertainError
from flask_mailesp.simulator import Simulator

BREAK = 0.05  # seconds; so short that the return falls into the run


@dataclass
class Drill:
    """Two providers, and what became of ``count`` messages sent through them."""

    count: int
    order: tuple[str, str] = ("postal", "postmark")
    first: Simulator = field(default_factory=lambda: Simulator(auto=()))
    second: Simulator = field(default_factory=lambda: Simulator(auto=()))
    outcomes: Counter[str] = field(default_factory=Counter)
    esps: Counter[str] = field(default_factory=Counter)
    returned: int = 0  # messages the first provider took after its outage
    false: int = 0  # results that say something else than the providers know
    lost: int = 0  # messages that no provider has and that were not reported as uncertain
    port: int = 0

    def run(self) -> float:
        """Send the messages; return the seconds it took."""
        with self.first.running() as one, self.second.running() as two:
            self.port = int(one.url.rpartition(":")[2])
            app = make_app(self.order, (one.url, two.url))
            with app.app_context():
                started = time.perf_counter()
                results = list(MailESP().send_many(self.messages(), workers=8))
                seconds = time.perf_counter() - started
                self.returned = self.came_back()
            app.extensions["mailesp"].transport.close()
        self.count_up(results)
        return seconds

    def messages(self) -> Iterator[Message]:
        """Yield the messages; the outage lasts for the second third of them."""
        for number in range(self.count):
            if number == self.count // 3:
                self.first.fault(drop="after")  # it has taken the message, and does not say so
                self.first.fault(drop="before")
            if number == self.count // 3 + 20:
                self.first.stop()
            if number == 2 * self.count // 3:
                self.first.start(port=self.port)
            yield Message(f"No. {number}", f"user{number}@example.com", "Hi")

    def came_back(self) -> int:
        """Return how many of some further messages the first provider takes."""
        before = len(self.first.messages)
        for number in range(10):
            time.sleep(BREAK / 2)
            with suppress(SendUncertainError):  # a fault that nothing has met so far
                MailESP().send(Message("Back?", f"later{number}@example.com", "Hi"))
        return len(self.first.messages) - before

    def copies(self) -> Counter[str]:
        """Return how many copies of each mail the providers accepted, by recipient."""
        taken = (*self.first.messages, *self.second.messages)
        return Counter(address for message in taken for address in message.recipients)

    def count_up(self, results: list[SendResult]) -> None:
        copies = self.copies()
        for number, result in enumerate(results):
            self.outcomes[str(result.outcome)] += 1
            self.esps[result.esp_name] += 1
            taken = copies[f"user{number}@example.com"]
            allowed = {"accepted": (1,), "uncertain": (0, 1)}.get(str(result.outcome), (0,))
            self.false += taken not in allowed
            self.lost += taken == 0 and result.outcome != "uncertain"
        self.lost += self.count - len(results)

    @property
    def doubled(self) -> int:
        """Messages of which the providers have several copies."""
        return sum(number > 1 for number in self.copies().values())

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.lost or self.doubled or self.false or not self.returned)


def make_app(order: tuple[str, str], urls: tuple[str, str]) -> Flask:
    app = Flask("drill")
    places = dict(zip(order, urls, strict=True))
    app.config.update(
        MAILESP_POSTMARK_SERVER_TOKEN="POSTMARK-SIMULATOR-TOKEN",
        MAILESP_POSTMARK_API_URL=f"{places['postmark']}/postmark",
        MAILESP_POSTAL_API_KEY="PostalSimulatorKey000001",
        MAILESP_POSTAL_API_URL=f"{places['postal']}/postal",
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.org"},
        MAILESP_RETRIES={"attempts": 2, "first_pause": 0.01},
        MAILESP_MAILERS={"default": {"failover": list(order), "breaker": {"seconds": BREAK}}},
    )
    MailESP(app)
    return app


def main(count: int) -> bool:
    """Hold both drills and print their figures."""
    return held(Drill(count)) | held(Drill(count, ("postmark", "postal")))


def held(drill: Drill) -> bool:
    """Hold a drill and print its figures; return whether it failed."""
    count = drill.count
    print(f"-- {drill.order[0]}, and {drill.order[1]} for its outages")
    seconds = drill.run()
    print(f"{count} messages in {seconds:.1f} s ({count / seconds:.0f} a second)")
    print("outcomes:", dict(drill.outcomes), "by", dict(drill.esps))
    print(f"lost {drill.lost}, doubled {drill.doubled}, false reports {drill.false}")
    print(f"the first provider took {drill.returned} of 10 messages after its return")
    return drill.failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
