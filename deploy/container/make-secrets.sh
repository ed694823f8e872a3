#!/bin/sh
# Makes the secrets that compose.yaml names, at random, in the folder secrets/ beside it, once. Run it as root: the files
# belong to the group that the containers run in, and nobody else may read them. GROUP=… names another group.
set -eu
umask 027
cd "$(dirname "$0")"
group=${GROUP:-10001}
if [ -e secrets ]; then
  echo "secrets/ is there already: nothing is changed. Remove it to have new ones made." >&2
  exit 1
fi
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
draft=secrets.draft
rm -rf "$draft"
mkdir "$draft"
put() { printf '%s\n' "$2" >"$draft/$1"; }

database=$(random) store=$(random) vectors=$(random)
put postgres_password "$(random)"
put hx_gateway_password "$database"
put PG_URL "postgresql://hx_gateway:$database@postgres:5432/hx_gateway"
put REDIS_URL "redis://hx_gateway:$store@redis:6379/0"
put redis.acl "user default on nopass -@all +ping
user hx_gateway on >$store ~* &* +@all -@dangerous"
put QDRANT_API_KEY "$vectors"
put qdrant.yaml "service:
  api_key: $vectors"
put HX_ADMIN_KEY "sk-hx-admin-$(random)"
put LITELLM_MASTER_KEY "sk-$(random)"

chgrp -R "$group" "$draft" || { rm -rf "$draft"; echo "Run this as root: sudo sh $0" >&2; exit 1; }
chmod 0750 "$draft"
chmod 0640 "$draft"/*
mv "$draft" secrets
echo "made secrets/, for the group $group"
