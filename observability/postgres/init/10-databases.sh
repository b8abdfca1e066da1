#!/usr/bin/env bash
# Creates a database and a role for each service, on the first start with an empty volume.
# A role can only connect to its own database.
set -euo pipefail

as_superuser() {
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres "$@"
}

create_database() {
    local database=$1 role=$2 password=$3
    # The builtin locale sorts the same with every C library.
    as_superuser --set=database="$database" --set=role="$role" --set=password="$password" <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"database" OWNER :"role" TEMPLATE template0 ENCODING 'UTF8'
    LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8';
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
}

create_database users user_service "$AGORA_USER_DB_PASSWORD"
create_database products product_service "$AGORA_PRODUCT_DB_PASSWORD"
create_database orders order_service "$AGORA_ORDER_DB_PASSWORD"
create_database inventory inventory_service "$AGORA_INVENTORY_DB_PASSWORD"
as_superuser --command 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
