#!/bin/sh
# build.sh URL FOLDER: kubectl-ray_dra.tar.gz and ray-dra.yaml in FOLDER, for krew. URL: where the archive will be found.
# The archive's bytes are the same whenever and wherever it is made.
set -eu
url=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/../../pyproject.toml")
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w --format=ustar \
    --directory "$here" kubectl-ray_dra --directory "$here/../.." LICENSE | gzip -n >"$folder/kubectl-ray_dra.tar.gz"
sum=$(sha256sum "$folder/kubectl-ray_dra.tar.gz" | cut -d' ' -f1)
sed "/^#/d; s|vVERSION|v$version|; s|uri: URL|uri: $url|; s|SHA256|$sum|" "$here/ray-dra.yaml" >"$folder/ray-dra.yaml"
