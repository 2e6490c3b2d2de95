"""What this app tells people about the providers it can run on.

Sending, tracking and receiving need none of this: they are the same for every provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Provider:
    """A provider's own spelling of its name, and the settings this app looks for.

    Any of ``account`` tells that there is one; ``key`` is what its webhooks are verified
    with, None where it signs nothing.
    """

    name: str
    account: tuple[str, ...]
    key: str | None = None


PROVIDERS = {
    "amazon_ses": Provider(  # a role has no key, but is used in a region
        "Amazon SES", ("AMAZON_SES_ACCESS_KEY_ID", "AMAZON_SES_REGION"), "AMAZON_SES_TOPIC_ARNS"
    ),
    "mailgun": Provider("Mailgun", ("MAILGUN_API_KEY",), "MAILGUN_WEBHOOK_SIGNING_KEY"),
    "postal": Provider("Postal", ("POSTAL_API_KEY",), "POSTAL_WEBHOOK_KEY"),
    "postmark": Provider("Postmark", ("POSTMARK_SERVER_TOKEN",)),
    "resend": Provider("Resend", ("RESEND_API_KEY",), "RESEND_SIGNING_SECRET"),
    "sendgrid": Provider("SendGrid", ("SENDGRID_API_KEY",), "SENDGRID_WEBHOOK_VERIFICATION_KEY"),
}

# Settings that Flask-MailESP also finds without its prefix.
PLAIN = frozenset(
    {
        "AMAZON_SES_ACCESS_KEY_ID",
        "AMAZON_SES_SECRET_ACCESS_KEY",
        "AMAZON_SES_SESSION_TOKEN",
        "AMAZON_SES_API_URL",
        "MAILGUN_API_KEY",
        "MAILGUN_API_URL",
        "MAILGUN_SENDER_DOMAIN",
        "MAILGUN_WEBHOOK_SIGNING_KEY",
        "POSTAL_API_KEY",
        "POSTAL_API_URL",
        "POSTAL_WEBHOOK_KEY",
        "POSTMARK_SERVER_TOKEN",
        "POSTMARK_API_URL",
        "RESEND_API_KEY",
        "RESEND_API_URL",
        "RESEND_SIGNING_SECRET",
        "RESEND_INBOUND_SECRET",
        "SENDGRID_API_KEY",
        "SENDGRID_API_URL",
        "SENDGRID_WEBHOOK_VERIFICATION_KEY",
        "SENDGRID_INBOUND_VERIFICATION_KEY",
    }
)


def esp_key(config: Mapping[str, Any]) -> str:
    """Return the key of the provider that the settings choose."""
    return str(config["MAILESP_ESP"]).strip().lower()


def provider_of(config: Mapping[str, Any]) -> Provider | None:
    """Return the provider that the settings choose, or None for one this app does not know."""
    return PROVIDERS.get(esp_key(config))


def name_of(config: Mapping[str, Any]) -> str:
    """Return the provider's name, as it spells it itself."""
    provider = provider_of(config)
    return provider.name if provider else esp_key(config).title()


def is_set(config: Mapping[str, Any], name: str) -> bool:
    """Tell whether a setting has a value, with or without its prefix."""
    return bool(config.get(f"MAILESP_{name}") or config.get(name))
