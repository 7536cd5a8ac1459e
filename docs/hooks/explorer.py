"""A hook of mkdocs: the explorer of the shipped models stands in its page, where `make docs` has written it."""

from pathlib import Path

MARK = "<!-- live -->"
FRAME = '<iframe src="../live/index.html" title="Explorer of the shipped models" loading="lazy" class="live"></iframe>'
ABSENT = "*This build of the documentation leaves the live explorer out; `make docs` writes it.*"


def on_page_markdown(markdown: str, page, config, **_) -> str:
    """Put the explorer, or a sentence, in place of the mark."""
    written = Path(config["docs_dir"], "live", "index.html").is_file()
    return markdown.replace(MARK, FRAME if written else ABSENT)
