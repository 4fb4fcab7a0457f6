"""The profiles that devices' boards measured of themselves: kept by a run, compared, drawn."""
