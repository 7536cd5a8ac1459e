"""What an optional part of the library needs, asked for before any work begins."""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = {
    "report": ("matplotlib", "jinja2"),
    "tables": ("pandas", "pyarrow", "xarray", "h5netcdf", "h5py", "zarr", "sklearn"),
    "zarr": ("zarr",),
    "traffic": ("sumo", "libsumo"),
    "railways": ("flatland", "flatland_baselines"),
    "onnx": ("onnx", "onnxscript"),
    "policies": ("sb3_contrib", "minigrid"),
}
"""the packages by which each extra is recognised"""


def require(extra: str) -> None:
    """Raise an ImportError where an extra is not installed; it names the missing packages and how to install them."""
    missing = [package for package in PACKAGES[extra] if find_spec(package) is None]
    if missing:
        more = ", then the packages of constraints.txt with --no-deps" if extra == "railways" else ""
        raise ImportError(
            f"this needs {', '.join(missing)} of the extra [{extra}], which {'is' if len(missing) == 1 else 'are'} "
            f'not installed; install s2rm with it, in its source folder: pip install ".[{extra}]"{more}'
        )
