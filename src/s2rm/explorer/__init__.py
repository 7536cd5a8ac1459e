"""A trained model in the browser: a folder of plain files in which anyone can touch its views and its modules."""

from s2rm.explorer.browser import runtime, serve
from s2rm.explorer.page import World, write_explorer
from s2rm.explorer.scenes import Agents, Crops, Layer, Played, Scene

__all__ = ["Agents", "Crops", "Layer", "Played", "Scene", "World", "runtime", "serve", "write_explorer"]
