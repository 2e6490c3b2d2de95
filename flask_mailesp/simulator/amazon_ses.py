"""Amazon's side: the v2 API of SES, what it publishes through SNS, and a bucket in S3.

Below the provider's URL, ``/v2/email/…`` is Amazon SES, ``/sns/`` Amazon SNS and ``/s3/`` Amazon
S3, with buckets in the path.

Sources: https://docs.aws.amazon.com/ses/latest/APIReference-V2/Welcome.html and the pages that
the modules beside this one name.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from werkzeug.wrappers import Request, Response

from .amazon_ses_events import (
    BUCKET,
    EVENTS,
    SUPPRESSED,
    AmazonSesHook,
    Owner,
    Topic,
    bare_post,
    by_name,
    event_body,
    in_s3,
    received_body,
    wrapped,
)
from .amazon_ses_wire import (
    ESP,
    ApiError,
    answer,
    as_list,
    as_object,
    attached,
    authenticate,
    bad,
    check_addresses,
    check_source,
    decoded,
    destination,
    message_headers,
    message_tags,
    metadata_of,
    read_json,
    refusal,
    s3_refusal,
    tags_of,
    template_data,
    tracking,
    xml,
    xml_refusal,
)
from .mime import Mail, bare
from .mustache import TOKEN, render
from .records import Inbound, Post, SentMessage
from .side import Context, Planned, Side
from .signing import new_key

KEY_ID = "AKIASIMULATOR0000001"
SECRET = "SimulatorSecretAccessKey/0123456789+abcd"  # noqa: S105
REGION = "eu-west-1"
ACCOUNT = "123456789012"
ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-000000")
TEMPLATE_NAME = re.compile(r"arn:[^/]+/(.+)|(.+)")
SIMULATED = {  # the mailbox simulator of Amazon SES
    "success": "delivered",
    "bounce": "bounced",
    "complaint": "complained",
    "suppressionlist": "suppressed",
    "ooto": "delivered",
}

DESTINATIONS = "/event-destinations"
SUBJECTS = {
    "tracking": "Amazon SES Email Event Notification",
    "inbound": "Amazon SES Email Receipt Notification",
}

Handler = Callable[[Request, str], Any]


class AmazonSes(Side):
    """An account at Amazon, in one region.

    ``keys`` maps access key ids to their secrets. ``configuration_sets`` are those that exist;
    None for any. ``private_key`` (PEM, RSA) is what SNS signs with.
    """

    key = ESP
    hook = AmazonSesHook
    signs = True
    ids = "it has texts such as 0102018f2a3b4c5d-1a2b3c4d-1a2b-1a2b-1a2b-1a2b3c4d5e6f-000000"
    own_headers = frozenset({"x-metadata", "x-tag"})

    def __init__(
        self,
        context: Context,
        keys: dict[str, str] | None = None,
        region: str = REGION,
        configuration_sets: Iterable[str] | None = None,
        private_key: str | None = None,
    ) -> None:
        super().__init__(context)
        self._keys = keys or {KEY_ID: SECRET}
        self._region = region
        sets = configuration_sets
        self._configuration_sets = None if sets is None else frozenset(sets)
        self._topic = Topic(lambda: private_key or self._new_key(), region)
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", "outbound-emails"): self._send,
            ("POST", "outbound-bulk-emails"): self._send_bulk,
            ("GET", "account"): self._account,
            ("POST", "templates"): self._create_template,
            ("GET", "templates"): self._list_templates,
            ("GET", "templates/"): self._get_template,
            ("PUT", "templates/"): self._update_template,
            ("DELETE", "templates/"): self._delete_template,
            ("PUT", "suppression/addresses"): self._put_suppressed,
        }
        self._set_routes: dict[str, Handler] = {
            "GET": self._list_destinations,
            "POST": self._create_destination,
        }
        self._actions: dict[str, Callable[[Request], str]] = {
            "ConfirmSubscription": self._confirm,
            "ListSubscriptionsByTopic": self._list_subscriptions,
            "Subscribe": self._subscribe,
        }

    def _new_key(self) -> str:
        return self.keep("signing key", new_key)

    def arn(self, kind: str) -> str:
        """The topic that the events, or the mails that come in, are published to."""
        name = "ses-inbound" if kind == "inbound" else "ses-events"
        return f"arn:aws:sns:{self._region}:{ACCOUNT}:{name}"

    def settings(self, url: str) -> dict[str, Any]:
        key, secret = next(iter(self._keys.items()))
        return {
            "API_URL": url,
            "SNS_URL": f"{url}/sns",
            "S3_URL": f"{url}/s3",
            "REGION": self._region,
            "ACCESS_KEY_ID": key,
            "SECRET_ACCESS_KEY": secret,
            "TOPIC_ARNS": [self.arn("tracking"), self.arn("inbound")],
        }

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        number = str(uuid.uuid4())
        request.get_data()  # before a form is read out of it: it is signed
        respond, refuse = self._service(path)
        try:
            return respond(request, path, number)
        except ApiError as error:
            self.refuse(path, error.status, error.body)
            return refuse(error, number)

    def _service(self, path: str) -> tuple[Callable[..., Response], Callable[..., Response]]:
        """Which service answers, and how it words what it refuses."""
        if path.startswith("/sns/") or path == "/sns":
            return self._sns, xml_refusal
        if path.startswith("/s3/"):
            return self._s3, s3_refusal
        return self._ses, refusal

    def _ses(self, request: Request, path: str, number: str) -> Response:
        authenticate(request, "ses", self._region, self._keys)
        area, _, rest = path.removeprefix("/v2/email/").partition("/")
        whole = path.removeprefix("/v2/email/")
        handler = self._routes.get((request.method, whole))
        if handler is None and area == "configuration-sets" and rest.endswith(DESTINATIONS):
            handler = self._set_routes.get(request.method)
        elif handler is None and rest:
            handler = self._routes.get((request.method, f"{area}/"))
        if handler is None or not path.startswith("/v2/email/"):
            raise ApiError(404, "UnknownOperationException", "There is no such operation.")
        return answer(handler(request, path), number)

    # -- sending --------------------------------------------------------------------------

    def _send(self, request: Request, path: str) -> dict[str, Any]:
        body = read_json(request)
        self._check_set(body)
        kinds = as_object(body.get("Content"))
        draft = self._draft(body, path)
        if isinstance(kinds.get("Raw"), dict):
            draft = self._raw(draft, body, kinds["Raw"])
        elif isinstance(kinds.get("Simple"), dict):
            draft = self._simple(draft, kinds["Simple"])
        elif isinstance(kinds.get("Template"), dict):
            draft = self._templated(draft, kinds["Template"], {}, [])
        else:
            raise bad("Content has one of Raw, Simple and Template.")
        self._check_sender(draft.from_)
        if not draft.recipients:
            raise bad("Missing required parameter: a destination.")
        self.take(draft)
        return {"MessageId": draft.id}

    def _send_bulk(self, request: Request, path: str) -> dict[str, Any]:
        body = read_json(request)
        self._check_set(body)
        content = as_object(as_object(body.get("DefaultContent")).get("Template"))
        entries = [as_object(entry) for entry in as_list(body.get("BulkEmailEntries"))]
        if not content or not entries:
            raise bad("DefaultContent.Template and BulkEmailEntries are required.")
        everyone = [destination(entry.get("Destination")) for entry in entries]
        check_addresses([one for lists in everyone for items in lists for one in items])
        self._check_sender(str(body.get("FromEmailAddress") or ""))
        results = [self._entry(body, content, entry, path) for entry in entries]
        return {"BulkEmailEntryResults": results}

    def _entry(
        self, body: dict[str, Any], content: dict[str, Any], entry: dict[str, Any], path: str
    ) -> dict[str, Any]:
        own = as_object(as_object(entry.get("ReplacementEmailContent")).get("ReplacementTemplate"))
        data = own.get("ReplacementTemplateData")
        try:
            draft = self._draft(body | {"Destination": entry.get("Destination")}, path)
            draft = replace(draft, payload=body | {"BulkEmailEntries": [entry]})
            headers = message_headers(entry.get("ReplacementHeaders"))
            replaced = {} if data is None else template_data(data)
            draft = self._templated(draft, content, replaced, headers)
            if not draft.recipients:
                raise bad("An entry has no destination.")
        except ApiError as error:
            if error.code == "NotFoundException":
                raise
            self.refuse(path, 200, error.body)
            return {"Status": "INVALID_PARAMETER", "Error": error.message}
        self.take(draft)
        return {"Status": "SUCCESS", "MessageId": draft.id}

    def _check_set(self, body: dict[str, Any]) -> None:
        name = body.get("ConfigurationSetName")
        known = self._configuration_sets
        if name is not None and known is not None and name not in known:
            raise ApiError(404, "NotFoundException", f"Configuration set <{name}> does not exist.")

    def _check_sender(self, sender: str) -> None:
        if not self.is_verified(bare(sender)):
            raise ApiError(
                400,
                "MessageRejected",
                "Email address is not verified. The following identities failed the check in "
                f"region {self._region.upper()}: {bare(sender)}",
            )

    def _draft(self, body: dict[str, Any], path: str) -> SentMessage:
        """What all kinds of content have in common."""
        to, cc, bcc = destination(body.get("Destination"))
        recipients = list(dict.fromkeys(bare(one) for one in (*to, *cc, *bcc)))
        number = new_id()
        message_tags(body.get("EmailTags") or body.get("DefaultEmailTags"))
        return SentMessage(
            esp=ESP,
            id=number,
            message_id=number,
            path=path,
            at=datetime.now(timezone.utc),
            payload=body,
            recipients=recipients,
            ids=dict.fromkeys(recipients, number),
            from_=str(body.get("FromEmailAddress") or ""),
            to=to,
            cc=cc,
            bcc=bcc,
            reply_to=[str(one) for one in as_list(body.get("ReplyToAddresses"))],
            track_opens=tracking(body, "OpenTrackingEnabled"),
            track_clicks=tracking(body, "ClickTrackingEnabled"),
            envelope_sender=body.get("FeedbackForwardingEmailAddress"),
        )

    def _raw(
        self, draft: SentMessage, body: dict[str, Any], content: dict[str, Any]
    ) -> SentMessage:
        mail = Mail(decoded(content.get("Data")))
        check_source(mail)
        named = {name: listed(mail, name) for name in ("To", "Cc", "Bcc")}
        recipients = draft.recipients
        if body.get("Destination") is None:  # then the headers say who gets it
            found = [bare(one) for items in named.values() for one in items]
            check_addresses(found)
            recipients = list(dict.fromkeys(found))
        headers = mail.headers()
        return replace(
            draft,
            payload=draft.payload | {"Content": {"Raw": {"Data": f"{len(mail.raw)} bytes"}}},
            recipients=recipients,
            ids=dict.fromkeys(recipients, draft.id),
            from_=draft.from_ or mail.first("From") or "",
            to=named["To"] or draft.to,
            cc=named["Cc"] or draft.cc,
            reply_to=draft.reply_to or mail.all("Reply-To"),
            subject=mail.first("Subject"),
            text=mail.text,
            html=mail.html,
            headers=headers,
            attachments=mail.attachments,
            tag=next(iter(tags_of(headers)), None),
            tags=tags_of(headers),
            metadata=metadata_of(headers),
            raw=mail.raw,
        )

    def _simple(self, draft: SentMessage, content: dict[str, Any]) -> SentMessage:
        body = as_object(content.get("Body"))
        headers = message_headers(content.get("Headers"))
        subject = as_object(content.get("Subject")).get("Data")
        if not isinstance(subject, str) or not body:
            raise bad("A simple message has a Subject and a Body.")
        return replace(
            draft,
            subject=subject,
            text=as_object(body.get("Text")).get("Data"),
            html=as_object(body.get("Html")).get("Data"),
            headers=headers,
            attachments=attached(content.get("Attachments")),
            tag=next(iter(tags_of(headers)), None),
            tags=tags_of(headers),
            metadata=metadata_of(headers),
        )

    # -- templates ------------------------------------------------------------------------

    def _templated(
        self,
        draft: SentMessage,
        content: dict[str, Any],
        own_data: dict[str, Any],
        own_headers: list[tuple[str, str]],
    ) -> SentMessage:
        name = content.get("TemplateName") or content.get("TemplateArn")
        match = TEMPLATE_NAME.fullmatch(str(name or ""))
        named = (match[1] or match[2]) if match else ""
        template = self._template_named(named) if match else inline_template(content)
        data = template_data(content.get("TemplateData", "{}")) | own_data
        replaced = {key.lower() for key, _ in own_headers}
        defaults = message_headers(content.get("Headers"))
        headers = [pair for pair in defaults if pair[0].lower() not in replaced] + own_headers
        parts = {part: template.get(part) for part in ("Subject", "Text", "Html")}
        return replace(
            draft,
            subject=render(str(parts["Subject"] or ""), data),
            text=None if parts["Text"] is None else render(str(parts["Text"]), data),
            html=None if parts["Html"] is None else render(str(parts["Html"]), data, escape=True),
            headers=headers,
            attachments=attached(content.get("Attachments")),
            tag=next(iter(tags_of(headers)), None),
            tags=tags_of(headers),
            metadata=metadata_of(headers),
            template=named or None,
            variables=data,
        )

    def _template_named(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] | None = self.store.get(ESP, "template", name)
        if found is None:
            raise ApiError(404, "NotFoundException", f"Template {name} does not exist.")
        return found

    def template(
        self,
        id: int | str | None,
        alias: str | None,
        subject: str,
        text: str | None,
        html: str | None,
    ) -> None:
        name = str(id if id is not None else alias)
        self.store.put(ESP, "template", name, {"Subject": subject, "Text": text, "Html": html})

    def _create_template(self, request: Request, path: str) -> dict[str, Any]:
        body = read_json(request)
        name = str(body.get("TemplateName") or "")
        if self.store.get(ESP, "template", name) is not None:
            raise ApiError(400, "AlreadyExistsException", f"Template {name} already exists.")
        self.store.put(ESP, "template", name, inline_template(body))
        return {}

    def _list_templates(self, request: Request, path: str) -> dict[str, Any]:
        names = [name for name, _ in self.store.items(ESP, "template")]
        return {"TemplatesMetadata": [{"TemplateName": name} for name in names]}

    def _get_template(self, request: Request, path: str) -> dict[str, Any]:
        name = unquote(path.rpartition("/")[2])
        content = {key: text for key, text in self._template_named(name).items() if text}
        return {"TemplateName": name, "TemplateContent": content}

    def _update_template(self, request: Request, path: str) -> dict[str, Any]:
        name = unquote(path.rpartition("/")[2])
        self._template_named(name)
        self.store.put(ESP, "template", name, inline_template(read_json(request)))
        return {}

    def _delete_template(self, request: Request, path: str) -> dict[str, Any]:
        name = unquote(path.rpartition("/")[2])
        self._template_named(name)
        self.store.remove(ESP, "template", name)
        return {}

    # -- the account ----------------------------------------------------------------------

    def _account(self, request: Request, path: str) -> dict[str, Any]:
        return {
            "DedicatedIpAutoWarmupEnabled": False,
            "EnforcementStatus": "HEALTHY",
            "ProductionAccessEnabled": True,
            "SendQuota": {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 0.0},
            "SendingEnabled": True,
        }

    def _put_suppressed(self, request: Request, path: str) -> dict[str, Any]:
        self.suppress(str(read_json(request).get("EmailAddress") or ""))
        return {}

    def _list_destinations(self, request: Request, path: str) -> dict[str, Any]:
        return {"EventDestinations": self.store.notes(ESP, "destination", self._set_of(path))}

    def _create_destination(self, request: Request, path: str) -> dict[str, Any]:
        body = read_json(request)
        name, made = body.get("EventDestinationName"), as_object(body.get("EventDestination"))
        if not isinstance(name, str) or not as_list(made.get("MatchingEventTypes")):
            raise bad("An event destination has a name, and events.")
        self.store.note(ESP, "destination", self._set_of(path), {"Name": name} | made)
        return {}

    def _set_of(self, path: str) -> str:
        name = unquote(path.removeprefix("/v2/email/configuration-sets/").partition("/")[0])
        self._check_set({"ConfigurationSetName": name})
        return name

    # -- Amazon SNS and Amazon S3 ---------------------------------------------------------

    def _sns(self, request: Request, path: str, number: str) -> Response:
        if request.method == "GET":
            if path != f"/sns/{self._topic.certificate_name}":
                raise ApiError(404, "NotFound", "There is no such certificate.")
            return Response(self._topic.certificate, mimetype="application/x-pem-file")
        action = request.form.get("Action", "")
        if action not in self._actions:
            raise ApiError(400, "InvalidAction", "There is no such action.")
        if action != "ConfirmSubscription" or "Authorization" in request.headers:
            authenticate(request, "sns", self._region, self._keys)
        return xml(self._actions[action](request), number, action)

    def _confirm(self, request: Request) -> str:
        """Only who was sent the token can confirm."""
        topic, token = request.form.get("TopicArn", ""), request.form.get("Token", "")
        if topic not in (self.arn("tracking"), self.arn("inbound")):
            raise ApiError(404, "NotFound", "Topic does not exist.")
        found = self.store.get(ESP, "token", token)
        if found is None or found["topic"] != topic:
            raise ApiError(400, "InvalidParameter", "Invalid parameter: Token")
        arn = f"{topic}:{uuid.uuid4()}"
        self.store.put(ESP, "subscription", f"{topic} {found['url']}", arn)
        return f"<SubscriptionArn>{arn}</SubscriptionArn>"

    def _list_subscriptions(self, request: Request) -> str:
        topic = request.form.get("TopicArn", "")
        members = "".join(
            f"<member><TopicArn>{topic}</TopicArn><Protocol>https</Protocol>"
            f"<SubscriptionArn>{arn}</SubscriptionArn><Owner>{ACCOUNT}</Owner>"
            f"<Endpoint>{escape(key.partition(' ')[2])}</Endpoint></member>"
            for key, arn in self.store.items(ESP, "subscription")
            if key.startswith(f"{topic} ")
        )
        return f"<Subscriptions>{members}</Subscriptions>"

    def _subscribe(self, request: Request) -> str:
        topic, url = request.form.get("TopicArn", ""), request.form.get("Endpoint", "")
        if request.form.get("Protocol") not in ("http", "https") or not url.startswith("http"):
            raise ApiError(400, "InvalidParameter", "Invalid parameter: Endpoint")
        self.store.put(ESP, "subscription", f"{topic} {url}", "PendingConfirmation")
        return "<SubscriptionArn>pending confirmation</SubscriptionArn>"

    def _s3(self, request: Request, path: str, number: str) -> Response:
        authenticate(request, "s3", self._region, self._keys)
        bucket, _, key = path.removeprefix("/s3/").partition("/")
        found = self.store.get(ESP, "object", key)
        if bucket != BUCKET or request.method != "GET":
            raise ApiError(403, "AccessDenied", "Access Denied")
        if found is None:
            raise ApiError(404, "NoSuchKey", "The specified key does not exist.")
        return Response(base64.b64decode(found), mimetype="application/octet-stream")

    # -- events ---------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        return tuple(EVENTS)

    def is_id(self, text: str) -> bool:
        return ID.fullmatch(text) is not None

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """What follows an acceptance: for some addresses not what was asked for."""
        if not events:
            return []
        if lacks_data(message, self.store.get(ESP, "template", message.template or "")):
            return [("failed", message.recipients[0], {})]
        planned: Planned = []
        for recipient in message.recipients:
            fate = simulated(recipient)
            if fate == "suppressed" or self.is_suppressed(recipient):
                planned.append(("bounced", recipient, SUPPRESSED(message, recipient)))
            elif fate is not None:
                planned.append((fate, recipient, {}))
            else:
                planned += [(event, recipient, {}) for event in events if event in EVENTS]
        return planned

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: AmazonSesHook,
    ) -> list[Post]:
        kind = by_name(event)
        if kind is None:
            raise self.unreported(event, "Amazon SES")
        address = self.find_recipient(message, recipient)
        if not hook.include_headers:
            kind = replace(kind, headers=False)
        body = event_body(kind, message, address, details, Owner(self._region, ACCOUNT))
        if kind.name == "Complaint" or body[kind.key].get("bounceType") == "Permanent":
            self.suppress(address)  # on the account's list
        if hook.tracking is None:
            return []
        return self._published("tracking", hook.tracking, body, hook, event, message.id)

    def _published(
        self,
        topic: str,
        url: str,
        body: dict[str, Any],
        hook: AmazonSesHook,
        event: str,
        message: str | None,
    ) -> list[Post]:
        """The post to a topic's subscription."""
        arn = self.arn(topic)
        confirmed = self.store.get(ESP, "subscription", f"{arn} {url}")
        if hook.confirmed_only and confirmed in (None, "PendingConfirmation"):
            return []
        said = json.dumps(body)
        fields = self._topic.notification(arn, SUBJECTS[topic], said, hook.signature_version)
        if hook.raw_delivery:
            return [bare_post(url, said, fields, event, message)]
        return [wrapped(url, fields, event, message)]

    def hooked(self, hook: AmazonSesHook, before: AmazonSesHook) -> list[Post]:
        """A subscription begins with a token that the endpoint must give back."""
        posts = []
        for kind in ("tracking", "inbound"):
            url = getattr(hook, kind)
            if url is not None and url != getattr(before, kind):
                token = secrets.token_hex(100)
                arn = self.arn(kind)
                self.store.put(ESP, "token", token, {"topic": arn, "url": url})
                fields = self._topic.confirmation(arn, token, hook.signature_version)
                posts.append(wrapped(url, fields, "subscription", None))
        return posts

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: AmazonSesHook) -> list[Post]:
        number = secrets.token_hex(20)
        if in_s3(mail, hook):
            encoded = base64.b64encode(mail.raw).decode("ascii")
            self.store.put(ESP, "object", f"inbound/{number}", encoded)
        body = received_body(mail, number, self.arn("inbound"), hook)
        return self._published("inbound", hook.inbound or "", body, hook, "inbound", None)


def new_id() -> str:
    return f"0102{secrets.token_hex(6)}-{uuid.uuid4()}-000000"


def listed(mail: Mail, name: str) -> list[str]:
    """The addresses of a header, with their names."""
    pairs = mail.addresses(name)
    return [f"{title} <{address}>" if title else address for title, address in pairs]


def inline_template(body: dict[str, Any]) -> dict[str, Any]:
    content = as_object(body.get("TemplateContent"))
    if not any(content.get(part) for part in ("Text", "Html")) or not content.get("Subject"):
        raise bad("A template has a Subject, and a Text or an Html.")
    return {part: content.get(part) for part in ("Subject", "Text", "Html")}


def lacks_data(message: SentMessage, template: dict[str, Any] | None) -> bool:
    """Whether a template names what its data lack: then nothing is sent."""
    texts = [str(text) for text in (template or {}).values() if text]
    names = [match["name"] or match["raw"] for text in texts for match in TOKEN.finditer(text)]
    return any(name and name.partition(".")[0] not in message.variables for name in names)


def simulated(address: str) -> str | None:
    """What happens to mail to an address of the mailbox simulator."""
    mailbox, _, domain = address.lower().rpartition("@")
    if domain != "simulator.amazonses.com":
        return None
    return SIMULATED.get(mailbox.partition("+")[0])


side = AmazonSes
