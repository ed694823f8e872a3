#!/bin/sh
# Wires LiteLLM and the gateway of this host to their stores; all arguments go to `hx-gateway wire`.
set -eu
home=$(cd "$(dirname "$0")/../.." && pwd)
if [ -x "$home/.venv/bin/python" ]; then
  exec "$home/.venv/bin/python" -m hx_gateway wire "$@"
fi
exec hx-gateway wire "$@"
