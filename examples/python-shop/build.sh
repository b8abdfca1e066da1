#!/usr/bin/env bash
# Makes what the Python shop needs to run, with an image registry or without one, and writes it to `.env` beside this file.
#
# PostgreSQL, RabbitMQ and Traefik are agora's images: those that AGORA_IMAGE_* name, else those that agora's own `.env`
# does, else the upstream ones, else built by images/build.sh. The services' own image is Debian's Python with the packages of
# requirements.txt, which pip fetches on this machine, so that the build itself needs only a Debian mirror.
#
# AGORA_COMPOSE is the Compose V2 command to build with (default: docker compose).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$here"
compose=("${AGORA_COMPOSE:-docker compose}")
# words, where it isn't the path of a program, in which a space may be
[[ -x ${compose[0]} ]] || read -ra compose <<<"${compose[0]}"
third_party=(AGORA_IMAGE_TRAEFIK AGORA_IMAGE_POSTGRES AGORA_IMAGE_RABBITMQ)
pull_seconds=300

fail() {
    echo "python-shop: $*" >&2
    exit 1
}

# Sets the third-party images to those that the lines KEY=VALUE on standard input name; fails when one is missing here.
take_present() {
    local name value
    while IFS='=' read -r name value; do
        [[ " ${third_party[*]} AGORA_IMAGE_BASE " == *" $name "* ]] && export "$name=$value"
    done
    for name in "${third_party[@]}"; do
        [[ -n ${!name:-} ]] && docker image inspect "${!name}" >/dev/null 2>&1 || return 1
    done
}

provide_third_party() {
    local name
    take_present </dev/null && return
    [[ -r $root/.env ]] && take_present <"$root/.env" && return
    take_present <"$root/images/upstream.env" && return
    for name in "${third_party[@]}"; do
        timeout "$pull_seconds" docker pull --quiet "${!name}" || break
    done
    take_present <"$root/images/upstream.env" && return
    echo "no registry answers: building the third-party images here"
    "$root/images/build.sh"
    take_present < <("$root/images/build.sh" --tags) || fail "images/build.sh made not all images"
}

# The image below the services: Debian, as the third-party images were built on it, or from the registry that they came from.
base_image() {
    if [[ $AGORA_IMAGE_POSTGRES == agora-local/* ]]; then
        "$root/images/build.sh" --tags | sed -n 's/^AGORA_IMAGE_BASE=//p'
    else
        echo "${AGORA_IMAGE_POSTGRES%/postgres:*}/debian:trixie-slim"
    fi
}

# fetch FOLDER REQUIREMENTS: unpacks wheels for the image's Python, whichever Python this machine has.
fetch() {
    local machine
    machine=$(uname -m)
    "${pip[@]}" install --disable-pip-version-check --root-user-action=ignore --no-compile --quiet --no-deps --require-hashes --requirement "$2" --target "$1" \
        --only-binary=:all: --implementation cp --python-version 3.13 \
        --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine"
}

fill_context() {
    pip=(python3 -m pip)
    command -v python3 >/dev/null || fail "python3 is missing, which fetches the packages; install it with: apt-get install python3"
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        # pip runs straight out of its own wheel
        "$root/images/fetch-deb.sh" python3-pip-whl bookworm "$workspace/pip"
        pip=(python3 "$(echo "$workspace"/pip/usr/share/python-wheels/pip-*.whl)/pip")
    fi
    mkdir "$workspace/context"
    fetch "$workspace/context/packages" "$here/requirements.txt"
    fetch "$workspace/context/tools" "$here/tools.txt"
    cp "$root/proto/proto/agora/catalog/v1/catalog.proto" "$workspace/context/"
    cp -r "$here/shop" "$here/Dockerfile" "$workspace/context/"
    rm -rf "$workspace/context/shop/__pycache__"
}

workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT
docker version >/dev/null 2>&1 || fail "the Docker engine doesn't answer; start it, then try again"
provide_third_party
base=$(base_image)

# As for the third-party images: a tag ends in a hash of the recipe, so that an unchanged one is never built again.
inputs=(Dockerfile requirements.txt tools.txt shop/*.py ../../proto/proto/agora/catalog/v1/catalog.proto)
hash=$({ echo "$base"; sha256sum "${inputs[@]}"; } | sha256sum | cut -c 1-12)
export SHOP_IMAGE=agora-local/python-shop:$hash
if ! docker image inspect "$SHOP_IMAGE" >/dev/null 2>&1; then
    fill_context
    cat >"$workspace/compose.yaml" <<RECIPE
services:
  shop:
    image: $SHOP_IMAGE
    build:
      context: $workspace/context
      args:
        BASE: $base
RECIPE
    # other builders don't see the local base image
    BUILDX_BUILDER=default "${compose[@]}" --file "$workspace/compose.yaml" --progress plain build
fi
for name in SHOP_IMAGE "${third_party[@]}"; do
    echo "$name=${!name}"
done >"$here/.env"
echo "python-shop: $SHOP_IMAGE"
