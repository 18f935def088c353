"""Repacked fields, one step in one piece: plain arrays that are read through a memory map, or
netCDF files.
"""
