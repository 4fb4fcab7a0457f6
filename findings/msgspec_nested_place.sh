#!/usr/bin/env bash
# msgspec: the place of an error around dec_hook depends on the type of the error.
#
# Seen with msgspec 0.20.0: a ValueError raised in dec_hook becomes a ValidationError that ends in "at `$.rule`"; a
# ValidationError raised there, as by a nested convert of the very same data, passes without the outer place, so that the
# message names a key of the inner record and nothing says whose.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.20.0
"$folder/venv/bin/python" - <<'PY'
import msgspec

class Custom:
    pass

class Inner(msgspec.Struct):
    size: int

class Outer(msgspec.Struct):
    rule: Custom

def message(hook):
    try:
        msgspec.convert({"rule": {"size": "large"}}, Outer, dec_hook=hook)
    except msgspec.ValidationError as error:
        return str(error)

def by_value_error(_type, value):
    raise ValueError("size is no number")

plain = message(by_value_error)
nested = message(lambda _type, value: msgspec.convert(value, Inner))
print(f"msgspec {msgspec.__version__}\nValueError in the hook:          {plain}\nnested convert in the hook:      {nested}")
assert plain == "size is no number - at `$.rule`", "the behaviour has changed"
assert nested == "Expected `int`, got `str` - at `$.size`", "the behaviour has changed"
PY
