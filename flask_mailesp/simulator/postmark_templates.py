"""Postmark's templates API: enough to make what is then sent.

Source: https://postmarkapp.com/developer/api/templates-api
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .mustache import render
from .postmark_account import Account, Call, has_types, paged, route
from .postmark_wire import ESP, SERVER_ID, ApiError
from .store import Store

FIRST_TEMPLATE = 1_000_001


TEMPLATE_FIELDS: dict[str, type] = {
    "Name": str,
    "Alias": str,
    "Subject": str,
    "HtmlBody": str,
    "TextBody": str,
    "TemplateType": str,
    "LayoutTemplate": str,
}
PARTS = ("Subject", "HtmlBody", "TextBody")


def add_template(
    store: Store, fields: Mapping[str, Any], number: int | None, alias: str | None
) -> dict[str, Any]:
    """Keep a template under its id (a new one where it has none) and its alias."""
    number = store.next_id("postmark template", FIRST_TEMPLATE) if number is None else number
    template = {
        "TemplateId": number,
        "Alias": alias,
        "TemplateType": "Standard",
        "LayoutTemplate": None,
        "AssociatedServerId": SERVER_ID,
        "Active": True,
        **fields,
    }
    store.put(ESP, "template", str(number), template)
    if alias is not None:
        store.put(ESP, "template alias", alias, number)
    return template


def find_template(store: Store, number: Any, alias: Any) -> dict[str, Any] | None:
    """By the id, which wins, or by the alias."""
    if number is None and isinstance(alias, str):
        number = store.get(ESP, "template alias", alias)
    found: dict[str, Any] | None = store.get(ESP, "template", str(number))
    return found


def named_template(account: Account, name: str) -> dict[str, Any]:
    number = int(name) if name.isascii() and name.isdigit() else None
    found = find_template(account.store, number, name)
    if found is None:
        raise ApiError(1101, "The template was not found on this server.")
    return found


def summary(template: Mapping[str, Any]) -> dict[str, Any]:
    names = ("TemplateId", "Name", "Active", "Alias", "TemplateType", "LayoutTemplate")
    return {name: template[name] for name in names}


@route("GET", "/templates")
def list_templates(account: Account, call: Call) -> dict[str, Any]:
    found = [summary(one) for _, one in account.store.items(ESP, "template")]
    return paged(call, "Templates", found)


@route("GET", "/templates/<name>")
def get_template(account: Account, call: Call) -> dict[str, Any]:
    return named_template(account, call.args[0])


@route("POST", "/templates")
def post_template(account: Account, call: Call) -> dict[str, Any]:
    body = checked_template(call.body())
    if not body.get("Name"):
        raise ApiError(1120, "A template needs a Name.")
    check_alias(account, body.get("Alias"), None)
    given = {name: value for name, value in body.items() if value is not None}
    blank = dict.fromkeys(PARTS)
    return summary(add_template(account.store, blank | given, None, body.get("Alias")))


@route("PUT", "/templates/<name>")
def put_template(account: Account, call: Call) -> dict[str, Any]:
    old, body = named_template(account, call.args[0]), checked_template(call.body())
    check_alias(account, body.get("Alias"), old["TemplateId"])
    changed = old | {name: value for name, value in body.items() if value is not None}
    if old["Alias"] is not None:
        account.store.remove(ESP, "template alias", old["Alias"])
    return summary(add_template(account.store, changed, old["TemplateId"], changed["Alias"]))


@route("DELETE", "/templates/<name>")
def delete_template(account: Account, call: Call) -> dict[str, Any]:
    found = named_template(account, call.args[0])
    account.store.remove(ESP, "template", str(found["TemplateId"]))
    account.store.remove(ESP, "template alias", found["Alias"] or "")
    return {"ErrorCode": 0, "Message": f"Template {found['TemplateId']} removed."}


@route("POST", "/templates/validate")
def validate_template(_account: Account, call: Call) -> dict[str, Any]:
    """Every template is valid here: the little that is understood cannot be wrong."""
    body = call.body()
    model = body.get("TestRenderModel") or {}
    parts = {
        part: {
            "ContentIsValid": True,
            "ValidationErrors": [],
            "RenderedContent": render(str(body[part]), model, escape=part == "HtmlBody"),
        }
        for part in PARTS
        if body.get(part)
    }
    return {
        "AllContentIsValid": True,
        **dict.fromkeys(PARTS),
        **parts,
        "SuggestedTemplateModel": {},
    }


def checked_template(body: dict[str, Any]) -> dict[str, Any]:
    if not has_types(body, TEMPLATE_FIELDS):
        raise ApiError(1122, "A field does not exist, or is ill-typed.")
    return body


def check_alias(account: Account, alias: str | None, own: int | None) -> None:
    if alias is None:
        return
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", alias):
        raise ApiError(1122, "An Alias starts with a letter and has no spaces.")
    if account.store.get(ESP, "template alias", alias) not in (None, own):
        raise ApiError(1122, "Another template has this Alias.")
