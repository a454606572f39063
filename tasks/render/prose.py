"""Prose into safe HTML: docstrings, repository Markdown, and texts of a model.

Everything here is untrusted. Docstrings are Markdown without HTML, after the common
reStructuredText of docstrings has been turned into Markdown (`restructured.py`); repository
Markdown may hold HTML. Whatever comes out has been through an
allow-list sanitizer, and nothing in it loads anything from another host.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import unquote

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.footnote import footnote_plugin
from mdit_py_plugins.tasklists import tasklists_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from tasks.render.restructured import NAME, REFERS_TO, is_external, to_markdown
from tasks.render.source import coloured, coloured_console

# Text in which nothing can be markup is a paragraph as it stands; most summaries are.
_PLAIN = re.compile(r"[\w ,.;:'\"()/?!%=+-]*")
# What may be other markup than names in backticks; most summaries have none.
_MORE_THAN_CODE = re.compile(r"[*\[\]<>&\\~|]|(?<!\w)_|_(?!\w)|:\w+:|`_|::|://|^[ #+-]")
_STARS = re.compile(r"\*+(?=[^\W_])")
_DUNDER = re.compile(r"__[a-z]\w*__(?!\w)")
# An address in running text; its last characters may be the sentence's.
_ADDRESS = re.compile(r"://[^\s<>\"`]{1,2000}")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?=[\w-]+:|#)(?:.*\n)*?---[ \t]*(?:\n|\Z)")
# An item that is called, what it can be an item of, and a link to a name.
_ITEM_CALLED = re.compile(r"\[[^\[\]\n]*\]\((?!https?:|mailto:|[./#])(?P<within>[^()\n]*)\)")
_ENDS_OPERAND = re.compile(r"[A-Za-z0-9_)\]]")
_CROSS_REFERENCE = re.compile(
    r"\[(?P<title>(?:[^\[\]\\`]|\\.|`[^`\n]{1,200}`){1,200})\]\[(?P<name>[A-Za-z_][\w.]*)?\]"
)
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*(?:\(\))?")
# As the sanitizer writes them: every attribute in double quotes.
_IMAGE = re.compile(r'<img(?: [\w-]+="[^"]*")*>')
_ALT = re.compile(r' alt="([^"]*)"')
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_UNCLOSED = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"} | {
    *("dd", "dt", "li", "option", "p", "td", "th", "tr")
}
# Time to sanitize grows with depth, that of some lexers with the square of the length.
_DEEPEST_HTML = 500
_LONGEST_COLOURED = 10_000

_TAGS = {
    *(
        "a",
        "abbr",
        "b",
        "blockquote",
        "br",
        "code",
        "dd",
        "del",
        "details",
        "div",
        "dl",
        "dt",
        "em",
        "h1",
        "h2",
    ),
    *(
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "i",
        "img",
        "input",
        "kbd",
        "label",
        "li",
        "ol",
        "p",
        "pre",
        "s",
        "span",
        "strong",
    ),
    *("section", "sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
_ATTRIBUTES = {
    "a": {"href", "title", "id", "name"},
    "img": {"src", "alt", "title", "width", "height"},
    "input": {"type", "checked", "disabled"},
    "ol": {"start"},
    "pre": {"tabindex"},
    "td": {"align"},
    "th": {"align"},
    "details": {"open"},
    "li": {"id"},
    **{tag: {"id", "align"} for tag in ("h1", "h2", "h3", "h4", "h5", "h6")},
    **{tag: {"align"} for tag in ("p", "div")},
}
_ALIGNMENTS = ("left", "center", "right")
_PYTHON = {"python", "py", "python3", "py3"}
_CONSOLE = {"pycon", "python-console", "doctest"}
_FORMATTER = HtmlFormatter(nowrap=True)
# Pygments' classes, those of GitHub's Markdown, and docmill's own for prose.
_CLASS = re.compile(
    r"(?:b|span) [a-z]{1,2}[0-9a-z]?|\w+ (?:contains-)?task-list(?:-item(?:-checkbox)?)?"
    r"|div markdown-alert markdown-alert-[a-z]+|p markdown-alert-title|section footnotes|p heading|span image"
)
_CLASSED = ("b", "pre", "span", "code", "p", "div", "li", "ul", "section")
_ATTRIBUTES |= {tag: _ATTRIBUTES.get(tag, set()) | {"class"} for tag in _CLASSED}


def _kept_attribute(tag: str, attribute: str, value: str) -> str | None:
    """Images come from the site itself or not at all; ids and classes cannot take the page's own names."""
    if attribute == "src":
        return None if is_external(value) else value
    if attribute in ("id", "name") and not value.startswith("md-"):
        return f"md-{value}"
    if attribute == "class":
        return value if _CLASS.fullmatch(f"{tag} {value}") else None
    if attribute == "align":
        return value if value in _ALIGNMENTS else None
    if attribute in ("type", "tabindex"):
        return {"type": "checkbox", "tabindex": "0"}[attribute]
    return value


def _cleaner(kept: Callable[[str, str, str], str | None]) -> nh3.Cleaner:
    """Reduces HTML to what the allow-list holds, and of attributes to what `kept` gives."""
    return nh3.Cleaner(
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=kept,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )


_CLEANER = _cleaner(_kept_attribute)


def sanitized(markup: str, cleaner: nh3.Cleaner = _CLEANER) -> Markup:
    """HTML reduced to what a cleaner lets through."""
    return Markup(cleaner.clean(markup))


def docstring_html(
    text: str, targets: Mapping[str, str], files: Mapping[str, str] = MappingProxyType({})
) -> Markup:
    """A docstring's text as HTML.

    Args:
        text: As the human wrote it: Markdown, or the reStructuredText of docstrings.
        targets: Hrefs of names; a name in backticks that is among them becomes a link.
        files: By relative links as written, where they lead.
    """
    if _is_plain(text):
        return Markup(f"<p>{html.escape(text)}</p>")
    return sanitized(_docstring_parser().render(to_markdown(text), {"targets": targets, "files": files}))


def _is_plain(text: str) -> bool:
    marked = "://" in text or "::" in text or text.startswith((" ", "-", "+"))
    return not marked and _PLAIN.fullmatch(text) is not None


def inline_html(
    text: str, targets: Mapping[str, str], files: Mapping[str, str] = MappingProxyType({})
) -> Markup:
    """A text of one paragraph, without the paragraph's tags."""
    if _is_plain(text):
        return Markup(html.escape(text))
    return sanitized(
        _docstring_parser().renderInline(to_markdown(text), {"targets": targets, "files": files})
    )


def plain_text(text: str) -> str:
    """A docstring's text of one paragraph without its markup."""
    if _is_plain(text):
        return text
    if not _MORE_THAN_CODE.search(text):
        return " ".join(text.replace("`", "").split())
    tokens = _docstring_parser().parseInline(to_markdown(text))
    parts = (child for token in tokens for child in token.children or [])
    words = "".join(" " if part.type.endswith("break") else part.content for part in parts)
    return " ".join(words.split())


def plain_html(text: str) -> Markup:
    """A derived or a model's text: no markup but code in backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False)))


def page_html(
    text: str, rewrite: Callable[[str], str | None], picture: Callable[[str], str | None]
) -> Markup:
    """A Markdown page of the repository as HTML.

    Args:
        text: The page's Markdown.
        rewrite: From a relative link, as written, to where it leads in the site; None
            where it leads nowhere, and the link is dropped.
        picture: The same for images; one that is not in the site is replaced by its text.
    """
    markup = _page_parser().render(_FRONT_MATTER.sub("", text), {"slugs": set(), "repeated": Counter()})
    if _depth(markup) > _DEEPEST_HTML:
        return Markup("<pre>{}</pre>").format(text)

    # Here, and not where Markdown is parsed, for pages link and show pictures in HTML too.
    def kept(tag: str, attribute: str, value: str) -> str | None:
        if attribute == "src":
            return picture(value)
        if attribute == "href" and not is_external(value):
            return rewrite(value)
        return _kept_attribute(tag, attribute, value)

    return Markup(_IMAGE.sub(_with_source, sanitized(markup, _cleaner(kept))))


def _with_source(image: re.Match[str]) -> str:
    """An image as it is; of one that the site does not have, the text."""
    if ' src="' in image[0]:
        return image[0]
    text = _ALT.search(image[0])
    return f'<span class="image">{text[1]}</span>' if text and text[1] else ""


def _depth(markup: str) -> int:
    """How deep elements are nested, at most, in HTML that may leave them open."""
    opened: Counter[str] = Counter()
    depth = deepest = 0
    for closes, name in _TAG.findall(markup):
        if name not in _UNCLOSED and (not closes or opened[name]):
            step = -1 if closes else 1
            opened[name] += step
            depth += step
            deepest = max(deepest, depth)
    return deepest


# --- parsers


@lru_cache(maxsize=1)
def _docstring_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.disable("entity")  # a docstring that has `&amp;` speaks of it
    parser.use(deflist_plugin)
    parser.inline.ruler.push("address", _address)
    parser.inline.ruler.before("emphasis", "dunder", _dunder)
    parser.inline.ruler.before("emphasis", "operator", _operator)
    parser.inline.ruler.before("link", "item", _item)
    parser.inline.ruler.after("link", "cross_reference", _cross_reference)
    parser.add_render_rule("code_inline", _code_inline)
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("link_close", _link_close)
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("heading_open", lambda *_: '<p class="heading">')
    parser.add_render_rule("heading_close", lambda *_: "</p>")
    return parser


@lru_cache(maxsize=1)
def _page_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True, "alerts": True}).enable(["table", "strikethrough"])
    parser.inline.ruler.push("address", _address)
    parser.use(footnote_plugin, inline=False).use(tasklists_plugin, label=True)
    parser.add_render_rule("heading_open", _heading_open)
    parser.add_render_rule("fence", _fence)
    return parser


def _heading_open(
    renderer: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """A heading with an anchor; of repeated ones, with `-1`, `-2` …."""
    children = tokens[index + 1].children or []
    title = slug("".join(t.content for t in children if t.type in ("text", "code_inline")))
    anchor = title
    while anchor in env["slugs"]:
        env["repeated"][title] += 1
        anchor = f"{title}-{env['repeated'][title]}"
    env["slugs"].add(anchor)
    tokens[index].attrSet("id", anchor)
    return renderer.renderToken(tokens, index, options, env)


def slug(title: str) -> str:
    """The anchor of a heading, as code hosts form it, apart from docmill's own ids."""
    kept = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return "md-" + kept.replace(" ", "-")


def _address(state: StateInline, silent: bool) -> bool:
    """A link from an address in running text, as GitHub's Markdown has it; for http and https alone."""
    scheme = next((s for s in ("https", "http") if state.pending.endswith(s)), None)
    if scheme is None or state.linkLevel or state.src[state.pos] != ":":
        return False
    start = state.pos - len(scheme)
    rest = _ADDRESS.match(state.src, state.pos, state.posMax)
    if rest is None or state.src[start - 1 : start].isalnum():
        return False
    address = scheme + _without_punctuation(rest[0])
    href = state.md.normalizeLink(address)
    if len(address) <= len(scheme) + len("://") or not state.md.validateLink(href):
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme)]
        state.push("link_open", "a", 1).attrs = {"href": href}
        state.push("text", "", 0).content = address
        state.push("link_close", "a", -1)
    state.pos = start + len(address)
    return True


def _without_punctuation(address: str) -> str:
    """An address without what ends the sentence or closes a bracket that was opened before it."""
    end = len(address)
    closing = address.count(")") - address.count("(")
    while end:
        if address[end - 1] == ")" and closing > 0:
            closing -= 1
        elif address[end - 1] not in "?!.,:;*_~'":
            break
        end -= 1
    return address[:end]


def _dunder(state: StateInline, silent: bool) -> bool:
    """`__init__` in a docstring is a name, not the word in bold."""
    found = _DUNDER.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _operator(state: StateInline, silent: bool) -> bool:
    """Stars between operands, as in `2*3*4` or `f(x)**2`, multiply, and emphasize nothing."""
    found = _STARS.match(state.src, state.pos, state.posMax)
    if found is None or not _ENDS_OPERAND.match(state.src[state.pos - 1 : state.pos]):
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _item(state: StateInline, silent: bool) -> bool:
    """`table[key](argument)` in a docstring is code, and not a link behind a word."""
    found = _ITEM_CALLED.match(state.src, state.pos, state.posMax)
    if found is None or not _ENDS_OPERAND.match(state.src[state.pos - 1 : state.pos]):
        return False
    if unquote(found["within"]) in state.env.get("files", ()):
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _cross_reference(state: StateInline, silent: bool) -> bool:
    """A link to a name, as mkdocstrings has it: `[title][package.name]` or `[package.name][]`.

    What is not known may as well be two indices, and is left as it is, unless the title is code.
    """
    found = _CROSS_REFERENCE.match(state.src, state.pos, state.posMax)
    if found is None or _ENDS_OPERAND.match(state.src[state.pos - 1 : state.pos]):
        return False
    name = found["name"] or found["title"].strip("`")
    is_meant = name in state.env.get("targets", ()) or ("." in name and found["title"].startswith("`"))
    if not NAME.fullmatch(name) or not is_meant:
        return False
    if not silent:
        after = state.posMax
        state.pos, state.posMax = found.span("title")
        state.push("link_open", "a", 1).attrs = {"href": f"{REFERS_TO}{name}"}
        state.linkLevel += 1
        state.md.inline.tokenize(state)
        state.linkLevel -= 1
        state.push("link_close", "a", -1)
        state.posMax = after
    state.pos = found.end()
    return True


def _code_inline(
    renderer: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    content = tokens[index].content
    code = f"<code>{html.escape(content)}</code>"
    is_name = _IDENTIFIER.fullmatch(content) and not env.get("in_link")
    href = env["targets"].get(content.removesuffix("()")) if is_name else None
    return f'<a href="{html.escape(href)}">{code}</a>' if href else code


def _link_open(
    renderer: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """A link; where it refers to a symbol by name, to where that is documented, if it is."""
    env["in_link"] = True
    href: str | None = str(tokens[index].attrGet("href") or "")
    if href and href.startswith(REFERS_TO):
        href = env["targets"].get(href.removeprefix(REFERS_TO))
    elif href:
        href = env["files"].get(unquote(href), href)
    env["leads_on"] = href is not None
    return f'<a href="{html.escape(href)}">' if href is not None else ""


def _link_close(
    renderer: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    env["in_link"] = False
    return "</a>" if env["leads_on"] else ""


def _fence(
    renderer: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[index]
    return highlighted(token.content, token.info.split()[0] if token.info.split() else "")


def highlighted(code: str, language: str) -> str:
    """A code block; highlighted where the language is known."""
    if language in _PYTHON:
        body = coloured(code)
    elif language in _CONSOLE:
        body = coloured_console(code)
    else:
        lexer = _lexer(language) if len(code) <= _LONGEST_COLOURED else None
        body = highlight(code, lexer, _FORMATTER) if lexer else html.escape(code)
    return f'<pre tabindex="0"><code>{body}</code></pre>\n'


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None
