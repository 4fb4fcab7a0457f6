"""Boards as data, and what it takes to flash one."""
