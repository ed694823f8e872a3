#!/bin/sh
# Checks a running gateway and its stores; all arguments go to `hx-gateway smoke`.
set -eu
home=$(cd "$(dirname "$0")/../../.." && pwd)
if [ -x "$home/.venv/bin/python" ]; then
  # In a clone the admin key of `make run` is found from here.
  cd "$home"
  exec .venv/bin/python -m hx_gateway smoke "$@"
fi
exec hx-gateway smoke "$@"
