"""The extension object, shared by all modules and all apps; each app keeps its own state."""

from __future__ import annotations

from flask_mailesp import MailESP

mail = MailESP()
