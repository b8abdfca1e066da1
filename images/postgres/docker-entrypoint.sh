#!/usr/bin/env bash
# The part of the upstream image's entrypoint that agora relies on: on an empty data folder, make a
# cluster from POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS and run
# /docker-entrypoint-initdb.d; then become the server.
set -euo pipefail

initialise() {
    : "${POSTGRES_PASSWORD:?must be set to initialise a database cluster}"
    export POSTGRES_USER=${POSTGRES_USER:-postgres}
    local database=${POSTGRES_DB:-$POSTGRES_USER} script
    local -a options
    read -ra options <<<"${POSTGRES_INITDB_ARGS:-}"

    initdb --username="$POSTGRES_USER" --pwfile=/dev/stdin "${options[@]}" <<<"$POSTGRES_PASSWORD"
    printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"

    # Listening on the socket alone: nobody takes this server for the finished one.
    pg_ctl start --wait --options="-c listen_addresses=''"
    if [[ $database != postgres ]]; then
        createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$database"
    fi
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
        *.sh) bash "$script" ;;
        *.sql) psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$database" --file="$script" ;;
        esac
    done
    pg_ctl stop --wait --mode=fast
}

if [[ ${1:-} == -* ]]; then
    set -- postgres "$@"
fi
if [[ $1 == postgres && ! -s $PGDATA/PG_VERSION ]]; then
    initialise
fi
exec "$@"
