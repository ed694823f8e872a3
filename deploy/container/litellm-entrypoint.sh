#!/bin/sh
# LiteLLM reads secrets from its environment only: each file in /run/secrets becomes the variable it is named after.
set -eu
for file in "${CREDENTIALS_DIRECTORY:-/run/secrets}"/[A-Z]*; do
  [ -f "$file" ] || continue
  value=$(cat "$file")
  export "${file##*/}=$value"
done
exec litellm "$@"
