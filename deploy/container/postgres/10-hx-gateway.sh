#!/bin/sh
# Run once, when the cluster is made: the gateway's role, which may nothing special, and the database that it owns.
set -eu
export HX_GATEWAY_PASSWORD_FILE="${HX_GATEWAY_PASSWORD_FILE:-/run/secrets/hx_gateway_password}"
# psql reads the password itself: on its command line others would see it.
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set password `cat "$HX_GATEWAY_PASSWORD_FILE"`
CREATE ROLE hx_gateway LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE hx_gateway OWNER hx_gateway ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE hx_gateway FROM PUBLIC;
SQL
