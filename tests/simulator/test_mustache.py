"""Templates as Postmark renders them."""

from __future__ import annotations

from typing import Any

import pytest

from flask_mailesp.simulator.mustache import render

MODEL: dict[str, Any] = {
    "name": "Ann & Bob",
    "zero": 0,
    "empty": [],
    "no": False,
    "company": {"city": "Brno"},
    "items": [{"title": "Tea"}, {"title": "Jam"}],
    "words": ["a", "b"],
    "sly": "{{name}}",
}


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("Hi {{name}}", "Hi Ann &amp; Bob"),
        ("Hi {{ name }}", "Hi Ann &amp; Bob"),
        ("Hi {{{name}}}", "Hi Ann & Bob"),
        ("{{company.city}}", "Brno"),
        ("{{company.street}}{{nothing.at.all}}{{name.first}}", ""),
        ("{{zero}}", "0"),
        ("{{#items}}[{{title}} {{company.city}}]{{/items}}", "[Tea Brno][Jam Brno]"),
        ("{{#words}}{{.}}{{/words}}", "ab"),
        ("{{#company}}{{city}}{{/company}}", "Brno"),
        ("{{#empty}}x{{/empty}}{{^empty}}none{{/empty}}", "none"),
        ("{{#no}}x{{/no}}{{^items}}none{{/items}}", ""),
        ("{{sly}}", "{{name}}"),
        ("{{#open}} stays", "{{#open}} stays"),
    ],
)
def test_templates(template: str, rendered: str) -> None:
    assert render(template, MODEL, escape=True) == rendered


def test_text_is_not_escaped() -> None:
    assert render("{{name}}", MODEL) == "Ann & Bob"
