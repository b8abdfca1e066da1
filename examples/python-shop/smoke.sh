#!/usr/bin/env bash
# The story in agora's README, told to the Python shop: sign up, log in, read the users, order, and see the stock drop.
#
#   smoke.sh [HOST:PORT]   where the gateway is (default: 127.0.0.1:$SHOP_HTTP_PORT, or port 80)
set -euo pipefail

gateway=http://${1:-127.0.0.1:${SHOP_HTTP_PORT:-80}}
email=smoke-$RANDOM$RANDOM@agora.example
body=$(mktemp)
trap 'rm -f "$body"' EXIT

# ask STATUS METHOD PATH [CURL OPTIONS]: leaves the answer in $body.
ask() {
    local expected=$1 method=$2 path=$3 status
    shift 3
    status=$(curl --silent --show-error --max-time 10 --output "$body" --write-out '%{http_code}' --request "$method" "$gateway$path" "$@")
    if [[ $status != "$expected" ]]; then
        echo "✗ $method $path: expected $expected, got $status: $(head -c 500 "$body")" >&2
        exit 1
    fi
    echo "✓ $method ${path%%\?*}: $status"
}

# field NAME: of the last answer.
field() {
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$body" "$1"
}

json='content-type: application/json'
ask 401 GET /users/
ask 201 POST /auth/signup -H "$json" -d '{"name":"alice","email":"'"$email"'","password":"hunter2"}'
id=$(field id)
ask 409 POST /auth/signup -H "$json" -d '{"name":"alice","email":"'"$email"'","password":"hunter2"}'
ask 200 POST /auth/login -H "$json" -d '{"email":"'"$email"'","password":"hunter2"}'
authorization="authorization: Bearer $(field access_token)"
ask 200 GET /users/ -H "$authorization"
ask 201 POST "/users/$id/purchases" -H "$authorization" -H "$json" -d '{"product_id":99,"quantity":1}'
ask 200 GET /inventory/99 -H "$authorization"
before=$(field available)
ask 202 POST '/orders/?product_id=99' -H "$authorization"
order=$(field order_id)
ask 200 GET "/orders/$order" -H "$authorization"
for _ in {1..50}; do
    ask 200 GET /inventory/99 -H "$authorization" >/dev/null
    after=$(field available)
    if ((after < before)); then
        echo "✓ the stock drops: $before → $after"
        echo "The story holds."
        exit 0
    fi
    sleep 0.2
done
echo "✗ the stock stays at $before" >&2
exit 1
