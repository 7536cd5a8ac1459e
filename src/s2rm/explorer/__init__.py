"""A trained model in the browser: a folder of plain files in which anyone can touch its views and its modules."""

from s2rm.explorer.browser import runtime, serve
from s2rm.explorer.page import Scene, write_explorer

__all__ = ["Scene", "runtime", "serve", "write_explorer"]
