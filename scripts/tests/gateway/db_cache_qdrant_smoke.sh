#!/bin/sh
# Checks a running gateway; all arguments go to `hx-gateway smoke`.
set -eu
cd "$(dirname "$0")/../../.."
if [ -x .venv/bin/python ]; then
  exec .venv/bin/python -m hx_gateway smoke "$@"
fi
exec hx-gateway smoke "$@"
