"""Repacked fields: plain arrays that are read through a memory map, one step in one piece."""
