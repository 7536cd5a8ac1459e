"""A hook of mkdocs: LaTeX between dollars becomes MathML, which browsers render without a script or a network."""

import re
from html import unescape

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex leaves in its generic mode: \(...\) in a span, \[...\] in a div.
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_page_content(html: str, page, **_) -> str:
    """Replace every equation of a page.

    Raises:
        PluginError: an equation is no LaTeX, or has a command that the converter does not know.
    """

    def mathml(found: re.Match[str]) -> str:
        latex = unescape(found[2]).strip()
        try:
            result = convert(latex, display="block" if found[1] == "div" else "inline")
        except Exception as error:
            raise PluginError(f"{page.file.src_path}: cannot read the equation {latex!r} ({error!r})") from error
        unknown = re.search(r"<mi>(&|\\.*?)</mi>", result)
        if unknown:
            raise PluginError(f"{page.file.src_path}: latex2mathml does not know {unknown[1]!r} in {latex!r}")
        return result

    return _EQUATION.sub(mathml, html)
