"""Forecasts whose columns are named as ours are, or as NetCDF does not allow."""

from dataclasses import replace

import numpy as np
import pytest

from s2rm.sensors import Columns, Places
from s2rm.sensors.tables import Forecasts, write_netcdf

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')


def forecasts(columns: Columns, named: bool = True) -> Forecasts:
    """One forecast, of an hour, for two places."""
    places = Places(np.array([[1.0, 3.0], [2.0, 4.0]]), np.empty((2, 0), np.float32), ("a", "b") if named else None)
    init, lead = np.array(["2013-05-01T06:00"], "datetime64[us]"), np.array([1], "timedelta64[h]")
    shape = (1, 1, 2, len(columns.values))
    return Forecasts(columns, places, init, lead, np.zeros(shape), np.ones(shape))


@pytest.mark.parametrize("name", ["valid_time", "init_time", "t_mean"])
def test_a_column_named_as_ours(name):
    made = forecasts(Columns("time", ("x", "y"), ("t",), name))
    table, dataset = made.table(), made.dataset("", several=False)
    assert table[f"{name}_"].tolist() == ["a", "b"]
    assert table.valid_time.tolist() == [pandas.Timestamp("2013-05-01T07:00Z")] * 2
    assert table.init_time.tolist() == [pandas.Timestamp("2013-05-01T06:00Z")] * 2
    assert table.t_mean.tolist() == [0, 0]
    assert dataset.t_mean.dims == ("valid_time", f"{name}_")
    assert dataset.valid_time.values.tolist() == [np.datetime64("2013-05-01T07:00", "ns").item()]


def test_a_position_named_as_ours():
    columns = Columns("time", ("lead_time", "place"), ("t",))
    made = forecasts(columns, named=False)
    assert made.table()["lead_time_"].tolist() == [1, 2]
    dataset = made.dataset("", several=False)
    assert dataset.lead_time_.values.tolist() == [1, 2]
    assert dataset.lead_time.values.tolist() == [np.timedelta64(1, "h").astype("timedelta64[ns]").item()]
    assert dataset.place.values.tolist() == [3, 4]
    assert dataset.t_mean.dims == ("valid_time", "place_")


def test_slashes_and_blanks_in_netcdf(tmp_path):
    columns = Columns("time", ("x/m", "y (m)"), ("wind (m/s)", "wind_(m_s)"), "station/id")
    made = forecasts(columns)
    dataset = replace(made, mean=made.mean + np.array([5.0, 7.0])).dataset("", several=False)
    write_netcdf(dataset, tmp_path / "new" / "f.nc")
    with xarray.open_dataset(tmp_path / "new" / "f.nc", engine="h5netcdf") as read:
        assert read["wind_(m_s)_mean"].values.tolist() == [[7, 7]]
        assert {"x_m", "y_(m)"} <= {*read.coords}
        slashed = read["wind_(m_s)_mean_"]
        assert slashed.values.tolist() == [[5, 5]]
        assert slashed.attrs["long_name"] == "mean of the forecast of wind (m/s)"
        assert slashed.attrs["ancillary_variables"] == "wind_(m_s)_stddev_"
        assert slashed.dims == ("valid_time", "station_id")
        assert read["x_m"].values.tolist() == [1, 2]
    assert dataset["wind (m/s)_mean"].attrs["ancillary_variables"] == "wind (m/s)_stddev"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["f.nc"]
