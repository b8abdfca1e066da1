#!/usr/bin/env bash
# Downloads one Debian package and extracts it into a folder: `fetch-deb.sh PACKAGE SUITE DEST`.
#
# apt runs with a configuration of its own (sources, lists, cache, no hooks), so the machine's package lists and installed
# packages stay unchanged; only its network settings (mirror, proxies, certificates) are used.
# Dependencies are not resolved: this is for self-contained packages.
#
# `fetch-deb.sh --mirror` prints the Debian mirror that this machine uses; `fetch-deb.sh --check` says what keeps packages from being fetched
# here, without any network.
set -euo pipefail

fail() {
    echo "fetch-deb: $*" >&2
    exit 1
}

require_debian() {
    local tool
    for tool in apt-get dpkg dpkg-deb; do
        command -v "$tool" >/dev/null ||
            fail "$tool is missing: packages can only be fetched on Debian; use a machine that reaches an image registry"
    done
    [[ -r $keyring ]] ||
        fail "$keyring is missing, so downloads can't be verified; install the package debian-archive-keyring"
}

# `--print-uris` needs no package lists, so this also works right after installation.
machine_mirror() {
    local mirror
    mirror=$(apt-get update --print-uris 2>/dev/null |
        sed -nE "s#^'(https?://[^']*/debian)/dists/[a-z]+/InRelease'.*#\1#p" | head -n 1)
    echo "${mirror:-http://deb.debian.org/debian}"
}

fetch() {
    local package=$1 suite=$2 destination=$3 mirror
    local -a debs
    mirror=$(machine_mirror)

    mkdir -p "$workspace"/{lists,cache,deb}/partial "$destination"
    : >"$workspace/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$workspace/sources.list"

    {
        apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets'
        cat <<CONFIG
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "$workspace/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$workspace/lists";
Dir::State::Status "$workspace/status";
Dir::Cache "$workspace/cache";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
// the unprivileged user _apt could not write into the private folders
APT::Sandbox::User "root";
CONFIG
    } >"$workspace/apt.conf"
    export APT_CONFIG=$workspace/apt.conf

    apt-get -qq update >&2 || fail "the mirror $mirror did not give the package lists of $suite"
    (cd "$workspace/deb" && apt-get -qq download "$package" >&2) ||
        fail "the mirror $mirror has no package $package in $suite"

    debs=("$workspace"/deb/*.deb)
    dpkg-deb --extract "${debs[0]}" "$destination"
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
case "$#:${1:-}" in
1:--check)
    require_debian
    ;;
1:--mirror)
    require_debian
    machine_mirror
    ;;
3:*)
    require_debian
    workspace=$(mktemp -d)
    trap 'rm -rf "$workspace"' EXIT
    fetch "$@"
    ;;
*)
    echo "usage: fetch-deb.sh PACKAGE SUITE DEST | fetch-deb.sh --mirror | fetch-deb.sh --check" >&2
    exit 2
    ;;
esac
