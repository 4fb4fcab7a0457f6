"""`python -m device_runtime` is the command `espalier`, for a shell without the script on its path."""

from device_runtime.cli import main

main()
