#!/bin/sh
# Makes and fills the shop, in one session: what is filled depends on its settings.
set -eu
exec psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --quiet --output=/dev/null --set ON_ERROR_STOP=1 --single-transaction \
    --command "set shop.rows = 20000" --command "set shop.seed = 0.1" \
    --command "select set_config('shop.today', current_date::text, false)" \
    --file /sql/shop.sql --file /sql/fill.sql --file /sql/traffic.sql
