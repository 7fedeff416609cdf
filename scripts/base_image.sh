#!/bin/sh
# Make a base image for the Dockerfile where no registry can be reached: scripts/base_image.sh NAME [SUITE]
# Takes root, Debian's mmdebstrap and a running Docker daemon; what it makes is like debian:SUITE-slim with Python in it.
set -eu
name=$1 suite=${2:-bookworm}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
trap 'exit 130' INT TERM
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --format=tar "$suite" "$archive"
docker import "$archive" "$name"
