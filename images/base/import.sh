#!/usr/bin/env bash
# Makes the Debian image under the local images, from packages alone: `import.sh TAG`.
#
# Importing the same packages again gives another image id and so throws every layer cache above
# it away: the caller imports once and keeps the tag.
set -euo pipefail

suite=trixie
fetch_deb=$(dirname "$0")/../fetch-deb.sh
tag=$1

workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT

if ! command -v mmdebstrap >/dev/null; then
    "$fetch_deb" mmdebstrap "$suite" "$workspace"
    PATH=$workspace/usr/bin:$PATH # it comes with a helper program
fi

mirror=$("$fetch_deb" --mirror)
# policy-rc.d keeps packages from starting their daemons while an image is built.
# shellcheck disable=SC2016 # mmdebstrap sets $1, the folder of the new system
no_daemons='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"'

# The tag comes last, so that a half-made image never carries it.
image=$(
    mmdebstrap \
        --variant=apt \
        --include=ca-certificates,passwd \
        --aptopt='Acquire::Languages "none"' \
        --aptopt='Acquire::Retries "3"' \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt=force-unsafe-io \
        --customize-hook="$no_daemons" \
        "$suite" - "$mirror" |
        docker import --change 'CMD ["bash"]' -
)
docker tag "$image" "$tag"
