"""Files from elsewhere: what they unpack to, where their contents lie, and which codecs they ask for."""

import gzip
import json

import numpy as np
import pytest

from s2rm import safety
from s2rm.sensors import Columns, read_reports

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
COLUMNS = Columns("time", ("x", "y"), ("v",), "station", globe=False)


def refusal(path) -> str:
    with pytest.raises(ValueError, match=r"\Aread: ") as raised:
        read_reports(path, COLUMNS)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def dataset(steps: int = 3):
    times = np.datetime64("2013-05-01", "ns") + np.arange(steps) * np.timedelta64(1, "h")
    places = {"station": ["a", "b"], "x": ("station", [1.0, 2.0]), "y": ("station", [3.0, 4.0])}
    values = {"v": (("time", "station"), np.arange(2.0 * steps).reshape(steps, 2))}
    return xarray.Dataset(values, {"time": times, **places})


@pytest.fixture
def little(monkeypatch):
    """The limit of a large file for small ones: ten thousand bytes, and as many times the size as ever."""
    monkeypatch.setattr(safety, "FREE_BYTES", 10_000)


@pytest.mark.usefixtures("little")
def test_a_table_that_unpacks_to_far_more_than_its_size(tmp_path):
    row = "2013-05-01T00:00,a,1,3,1\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(("time,station,x,y,v\n" + row * 100_000).encode()))
    assert "t.csv.gz unpacks to more than 0.0 GB, which is the most that is read" in refusal(tmp_path / "t.csv.gz")
    frame = pandas.DataFrame({"time": "2013-05-01T00:00", "station": "a", "x": 1, "y": 3, "v": 1}, index=range(200_000))
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    assert "t.parquet unpacks to more than" in refusal(tmp_path / "t.parquet")


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_dataset_that_unpacks_to_far_more_than_its_size(tmp_path, ending):
    path, small = tmp_path / f"t{ending}", tmp_path / f"small{ending}"
    for where, steps in ((path, 1_000_000), (small, 3)):
        made = dataset(steps)
        made["v"] = made.v * 0
        if ending == ".nc":
            packed = {"zlib": True, "complevel": 9, "shuffle": True}
            made.to_netcdf(where, engine="h5netcdf", encoding={"v": packed, "time": packed})
        else:
            made.to_zarr(where, zarr_format=2)
    assert "unpacks to" in refusal(path)
    with pytest.raises(ValueError, match="'v' is 0 in all"):
        read_reports(small, COLUMNS)


@pytest.mark.parametrize("kind", ["link", "virtual", "external"])
def test_contents_in_another_file(tmp_path, kind):
    h5py = pytest.importorskip("h5py", reason='needs pip install "s2rm[tables]"')
    dataset().to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    dataset().drop_vars("v").to_netcdf(tmp_path / "t.nc", engine="h5netcdf")
    with h5py.File(tmp_path / "t.nc", "a") as file:
        if kind == "link":
            file["v"] = h5py.ExternalLink("other.nc", "/v")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 2), "f8")
            layout[:] = h5py.VirtualSource("other.nc", "v", (3, 2))
            file.create_virtual_dataset("v", layout)
        else:
            file.create_dataset("v", (3, 2), "f8", external=[("other.nc", 0, 48)])
    assert "'v' of t.nc lies in another file, to which it only links; copy it into one file" in refusal(
        tmp_path / "t.nc"
    )


@pytest.mark.parametrize("version", [2, 3])
def test_codecs_of_zarr(tmp_path, version):
    path = tmp_path / "t.zarr"
    # Version 3 has no texts of a fixed length.
    dataset().assign_coords(station=[1, 2]).to_zarr(path, zarr_format=version, consolidated=False)
    assert len(read_reports(path, COLUMNS)) == 6
    file = path / "v" / (".zarray" if version == 2 else "zarr.json")
    about = json.loads(file.read_text())
    if version == 2:
        about["filters"] = [{"id": "pickle", "protocol": 5}]
    else:
        inner = {"codecs": [{"name": "numcodecs.pickle"}], "chunk_shape": [3, 2]}
        about["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]
    file.write_text(json.dumps(about))
    message = refusal(path)
    assert "expected codecs that only compress in t.zarr, got '" in message
    assert "pickle' in 'v'" in message


def test_a_chunk_of_a_terabyte(tmp_path):
    path = tmp_path / "t.zarr"
    dataset().to_zarr(path, zarr_format=2)
    about = json.loads((path / "v" / ".zarray").read_text())
    (path / "v" / ".zarray").write_text(json.dumps({**about, "chunks": [2**20, 2**17]}))
    assert "t.zarr unpacks to more than 0.3 GB" in refusal(path)
