"""A small app that sends, tracks and receives mail, to start from and to play with.

``python -m example_app`` starts it. Without a credential in the environment it talks to a
simulator on this machine; with one, the same code talks to the real provider:

=========================================  ===============================================
``MAILESP_ESP``                            ``postmark`` (default), ``amazon_ses``,
                                           ``mailgun``, ``postal``, ``resend``, ``sendgrid``
``POSTMARK_SERVER_TOKEN``                  the credential, of Postmark for one
``POSTAL_API_KEY``, ``POSTAL_API_URL``     Postal's credential and address
``POSTAL_WEBHOOK_KEY``                     what webhooks are verified with, Postal's for one
``MAILESP_WEBHOOK_SECRET``                 ``user:password`` that webhooks must bring
``MAIL_DEFAULT_SENDER``                    who the mail is from
=========================================  ===============================================

Every other ``MAILESP_...`` setting works too, and so does the ``FLASK_`` prefix.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from flask import Flask

from . import console, offline, pages, receivers
from .environment import read_environment, require_sender
from .extensions import mail
from .history import History
from .providers import esp_key
from .security import protect

__all__ = ["create_app"]


def create_app(environ: Mapping[str, str] = os.environ) -> Flask:
    """Make the app, configured by environment variables.

    Raises ConfigurationError, naming the variable, for what is missing or wrong.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        SECRET_KEY=secrets.token_hex(32),
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=64 * 1024 * 1024,
        MAILESP_ESP="postmark",
    )
    read_environment(app.config, environ)
    if not offline.has_credential(app.config):
        offline.init_app(app)  # a local provider; it sets the URL and the credentials
    # Browsers share cookies between ports: let two of these apps run side by side.
    app.config["SESSION_COOKIE_NAME"] = f"example_{esp_key(app.config)}"

    mail.init_app(app)  # this is all it takes: it reads app.config and adds the webhook routes
    require_sender(app.config)

    app.extensions["history"] = History()
    receivers.connect(app)
    app.register_blueprint(pages.blueprint)
    if offline.simulator_of(app):
        app.register_blueprint(console.blueprint)
    protect(app)
    return app
