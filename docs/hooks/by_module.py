"""An extension of griffe: the API page shows every object once, in the module that defines it."""

from griffe import Extension, Module


class ByModule(Extension):
    """Forgets which imported names a package exports; those would be shown a second time."""

    def on_package(self, *, pkg: Module, **_) -> None:
        for module in pkg.modules.values():
            if not module.is_alias:
                self.on_package(pkg=module)
        pkg.exports = None
