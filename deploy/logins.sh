#!/bin/sh
# Creates the roles of the database and a login for each, with the passwords in /run/secrets. The
# image of PostgreSQL runs this when it creates the database; it may be run again at any time.
set -eu
for pair in owner:migrate worker:worker relay:relay operator:operator reader:reader; do
    ROLE="${POSTGRES_DB}_${pair%:*}" LOGIN="${pair#*:}" \
        psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
        --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
\getenv role ROLE
\getenv login LOGIN
\set password `cat "${SECRETS:-/run/secrets}/postgres-$LOGIN"`
SELECT format('CREATE ROLE %I NOLOGIN', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('CREATE ROLE %I LOGIN', :'login')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'login') \gexec
ALTER ROLE :"login" PASSWORD :'password';
GRANT :"role" TO :"login";
-- What the owner of the database may do, `card-worker migrate` needs, and no other part.
SELECT format('ALTER DATABASE %I OWNER TO %I', current_database(), :'role')
WHERE :'login' = 'migrate' \gexec
-- Tables from before this script was used.
SELECT format('ALTER %s OWNER TO %I', what, :'role') FROM (
    SELECT format('TABLE %I', relname) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    UNION ALL SELECT format('FUNCTION %s', oid::regprocedure) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
) AS owned (what) WHERE :'login' = 'migrate' \gexec
SQL
done
