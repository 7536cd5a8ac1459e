"""Units and standard names of the CF conventions, where the name of a column makes them plain."""

from __future__ import annotations

import re

TEMPERATURES = {"k": "K", "degk": "K", "kelvin": "K", "c": "degree_Celsius", "degc": "degree_Celsius",
                "celsius": "degree_Celsius", "f": "degree_Fahrenheit", "degf": "degree_Fahrenheit"}  # fmt: skip
SPEEDS = {"ms": "m s-1", "mps": "m s-1", "ms1": "m s-1", "kmh": "km h-1", "kmh1": "km h-1", "kn": "knot",
          "kt": "knot", "kts": "knot", "knots": "knot"}  # fmt: skip
PRESSURES = {"pa": "Pa", "hpa": "hPa", "mbar": "hPa", "mb": "hPa", "kpa": "kPa"}
SHARES = {"pct": "%", "percent": "%", "%": "%"}
CONCENTRATIONS = {"ugm3": "ug m-3", "µgm3": "ug m-3", "μgm3": "ug m-3"}
QUANTITIES = (
    (r"\bair temp|^t2m|\btemp\w* (of )?(the )?air\b", "air_temperature", TEMPERATURES),
    (r"\bdew ?point", "dew_point_temperature", TEMPERATURES),
    (r"wind.*(dir|direction)\b", "wind_from_direction", {"deg": "degree", "degree": "degree", "degrees": "degree"}),
    (r"gust", "wind_speed_of_gust", SPEEDS),
    (r"^wind( ?speed)?$", "wind_speed", SPEEDS),
    (r"^(m?slp|msl|sea level pressure|mean sea level pressure)$", "air_pressure_at_mean_sea_level", PRESSURES),
    (r"rel.*humidity|^rh$", "relative_humidity", SHARES),
    (r"^pm10$", "mass_concentration_of_pm10_ambient_aerosol_particles_in_air", CONCENTRATIONS),
    (r"^pm2?\.?5$", "mass_concentration_of_pm2p5_ambient_aerosol_particles_in_air", CONCENTRATIONS),
)
"""what a name without its unit must say, the standard name, and how tables write the units that it may have"""
_OF_ANOTHER_KIND = re.compile(
    r"\b(depression|anomal\w+|bias|range|diff\w*|delta|change|trend|tendency|err\w*|std\w*|stdev|sd|sigma|var\w*|uncertainty|"
    r"departure|deficit|spread|gradient|lapse|excess|residual|index|to|towards?)\b"
)
"""what is no value of the quantity that it is named after"""
_UNIT = re.compile(r"\s*[\[(](.+?)[\])]\s*$|_((?:ug|µg|μg|m|km)_(?:m3|s|h)|[^_]+)$")


def named_in_cf(name: str) -> dict[str, str]:
    """The attributes `standard_name` and `units` of a column, such as those of `air_temp_K`; none where not plain."""
    unit = _UNIT.search(name)
    if unit is None:
        return {}
    written = re.sub(r"[\s_/^°.-]", "", (unit[1] or unit[2]).lower())
    quantity = re.sub(r"[\W_]+", " ", name[: unit.start()].lower()).strip()
    if _OF_ANOTHER_KIND.search(quantity):
        return {}
    for said, standard_name, units in QUANTITIES:
        if written in units and re.search(said, quantity):
            return {"standard_name": standard_name, "units": units[written]}
    return {}
