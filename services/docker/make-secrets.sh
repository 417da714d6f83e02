#!/bin/sh
# Makes what docker-compose.yml mounts as secrets, each once; run it again after an update, which may need more.
#
# The folder lets nobody but you in. The files in it are readable, for Docker mounts them one by one into containers
# that run as other users.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"

keep() { # NAME VALUE
    [ ! -s "$folder/$1" ] || return 0
    printf '%s' "$2" > "$folder/.new"
    chmod 444 "$folder/.new"
    mv "$folder/.new" "$folder/$1"
    echo "made $folder/$1"
}

for name in postgres registry dagster superset superset_admin superset_secret_key adventure \
    scopehouse_migrate scopehouse_ingest scopehouse_transform scopehouse_cdc scopehouse_bi; do
    keep "$name" "$(head -c 32 /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_')"
done

# Superset reads whole addresses.
keep superset_database_url "postgresql://superset:$(cat "$folder/superset")@postgres:5432/superset"
keep superset_bi_database_url "postgresql://scopehouse_bi:$(cat "$folder/scopehouse_bi")@postgres:5432/scopehouse"
