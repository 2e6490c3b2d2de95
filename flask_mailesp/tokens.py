"""Tokens of webhooks whose signatures do not cover their content."""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from hashlib import sha256
from time import monotonic

from .esp import Once

_MOST = 100_000  # tokens of 32 bytes each, with as much for their content


class TokenMemory:
    """Binds each token to the content that it was first seen with, in this process.

    Whoever has seen an authentic webhook could else have another content accepted with its
    token. The same content comes again whenever an ESP repeats a webhook: that is no harm.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def accepts(self, esp_name: str, once: Once) -> bool:
        """Tell whether a token is new, or came with this very content before."""
        key = sha256(f"{esp_name}\n{once.token}".encode("utf-8", "replace")).digest()
        content = sha256(once.content).digest()
        now = monotonic()
        with self._lock:
            self._forget(now)
            expires, before = self._seen.setdefault(key, (now + once.keep_seconds, content))
        return expires <= now or hmac.compare_digest(before, content)

    def _forget(self, now: float) -> None:
        """Forget expired tokens, and the oldest ones where there are too many."""
        while self._seen:
            key, (expires, _) = next(iter(self._seen.items()))
            if expires > now and len(self._seen) < _MOST:
                return
            del self._seen[key]
